// Browsers start no workers on pages that were opened from disk. There, the search runs in a hidden frame instead; it
// looks for this name to see that.
if (location.protocol === "file:") {
  window.IFrameWorker = window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      document.body.append(this.frame);
      const inside = this.frame.contentWindow;
      // scripts that a worker imports are added one after the other; a promise says when all are there
      inside.importScripts = (...urls) =>
        urls.map(String).reduce((before, next) => before.then(() => this.#load(next)), Promise.resolve());
      inside.postMessage = data => this.dispatchEvent(new MessageEvent("message", { data }));
      this.ready = this.#load(String(new URL(url, location.href)));
    }
    #load(url) {
      return new Promise((loaded, failed) => {
        const script = this.frame.contentDocument.createElement("script");
        Object.assign(script, { src: url, onload: loaded, onerror: failed });
        this.frame.contentDocument.body.append(script);
      });
    }
    set onmessage(handler) {
      this.addEventListener("message", handler);
    }
    postMessage(data) {
      this.ready.then(() => this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data })));
    }
    terminate() {
      this.frame.remove();
    }
  };
}
