// Shows one answer of the server (see show.py): words, a film under a slider, grids to click on, the figure, downloads.
// Runs inside gradio's HTML component, which provides `element`, `props` and `watch`.

const make = (tag, attributes = {}, ...children) => {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "text") node.textContent = value;
    else if (name === "style") for (const [key, v] of Object.entries(value)) node.style.setProperty(key, v);
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
};

const draw = (tag, attributes = {}, text = "") => {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.textContent = text;
  return node;
};

// One cell of a sheet of pictures, as the background of a node.
const place = (node, sheet, row, column) => {
  const share = (index, count) => (count > 1 ? (100 * index) / (count - 1) : 0);
  node.style.backgroundPosition = `${share(column, sheet.columns)}% ${share(row, sheet.rows)}%`;
};
const cell = (tag, sheet, row, column, attributes = {}) => {
  const node = make(tag, attributes);
  node.classList.add("picture");
  node.style.backgroundImage = `url(${sheet.src})`;
  node.style.backgroundSize = `${100 * sheet.columns}% ${100 * sheet.rows}%`;
  node.style.aspectRatio = sheet.aspect;
  place(node, sheet, row, column);
  return node;
};

// ---- chart: lines with ticks, dots that follow a slider -------------------------------------------------------------
const axisOf = (values, from, to, logarithmic, reverse) => {
  const scale = logarithmic ? (v) => Math.log10(v) : (v) => v;
  const usable = values.filter((v) => v !== null && (!logarithmic || v > 0)).map(scale);
  let [low, high] = [Math.min(...usable), Math.max(...usable)];
  if (!(high > low)) [low, high] = [low - 0.5, low + 0.5];
  const place = (v) => from + ((reverse ? high - scale(v) : scale(v) - low) * (to - from)) / (high - low);
  const rough = (high - low) / 5;
  const unit = 10 ** Math.floor(Math.log10(rough));
  const step = logarithmic ? Math.max(1, Math.ceil(rough)) : unit * [1, 2, 5, 10].find((k) => k * unit >= rough);
  const ticks = [];
  for (let tick = Math.ceil(low / step) * step; tick <= high + 1e-9; tick += step) ticks.push(logarithmic ? 10 ** tick : tick);
  return { place, ticks, usable: (v) => v !== null && (!logarithmic || v > 0) };
};
const short = (v) => (v !== 0 && (Math.abs(v) < 0.01 || Math.abs(v) >= 10000) ? v.toExponential(0) : String(Number(v.toPrecision(3))));

const chartOf = (chart, movers = []) => {
  const [width, height, left, right, top, bottom] = [320, 220, 44, 308, 10, 196];
  const all = chart.lines.flatMap((line) => line.points);
  const level = chart.level === undefined ? [] : [chart.level];
  let x = axisOf(all.map((p) => p[0]), left, right, chart.logX, chart.reverse);
  let y = axisOf([...all.map((p) => p[1]), ...level], bottom, top, chart.logY, false);
  if (chart.square) {
    const range = (k) => [Math.min(...all.map((p) => p[k])), Math.max(...all.map((p) => p[k]))];
    const [[x0, x1], [y0, y1]] = [range(0), range(1)];
    const scale = Math.max((x1 - x0) / (right - left), (y1 - y0) / (bottom - top));
    const around = (a, b, pixels) => [(a + b - scale * pixels) / 2, (a + b + scale * pixels) / 2];
    x = axisOf(around(x0, x1, right - left), left, right, false, false);
    y = axisOf(around(y0, y1, bottom - top), bottom, top, false, false);
  }
  const canvas = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": chart.title });
  const rule = (x1, y1, x2, y2, name = "") => canvas.append(draw("line", { x1, y1, x2, y2, class: name }));
  for (const tick of x.ticks) {
    rule(x.place(tick), top, x.place(tick), bottom);
    canvas.append(draw("text", { x: x.place(tick), y: bottom + 14, "text-anchor": "middle" }, short(tick)));
  }
  for (const tick of y.ticks) {
    rule(left, y.place(tick), right, y.place(tick));
    canvas.append(draw("text", { x: left - 4, y: y.place(tick) + 4, "text-anchor": "end" }, short(tick)));
  }
  if (chart.mark !== undefined) rule(x.place(chart.mark), top, x.place(chart.mark), bottom, "now");
  if (chart.level !== undefined) rule(left, y.place(chart.level), right, y.place(chart.level), "now");
  const legend = make("p", { class: "legend" });
  for (const line of chart.lines) {
    const drawn = line.points.filter((p) => x.usable(p[0]) && y.usable(p[1])).map((p) => `${x.place(p[0])},${y.place(p[1])}`);
    const colour = `--line: ${line.colour}`;
    const look = { style: colour, "stroke-width": line.wide ? 2.6 : 1.5 };
    if (line.dashed) look["stroke-dasharray"] = "4 3";
    canvas.append(draw("polyline", { points: drawn.join(" "), ...look }));
    const stroke = `${line.wide ? 3 : 2}px ${line.dashed ? "dashed" : "solid"}`;
    const key = make("i", { style: { "--line": line.colour, "border-top": stroke } });
    legend.append(make("span", {}, key, line.name));
    if (!chart.follow) continue;
    const dot = draw("circle", { r: 5, style: colour });
    canvas.append(dot);
    movers.push((index) => {
      const point = line.points[Math.min(index, line.points.length - 1)];
      const seen = x.usable(point[0]) && y.usable(point[1]);
      dot.setAttribute("visibility", seen ? "visible" : "hidden");
      if (!seen) return;
      dot.setAttribute("cx", x.place(point[0]));
      dot.setAttribute("cy", y.place(point[1]));
    });
  }
  const axes = make("p", { class: "axes", text: chart.y ? `across: ${chart.x} · up: ${chart.y}` : chart.x });
  return make("section", { class: "chart" }, make("h4", { text: chart.title }), canvas, axes, legend);
};

// ---- film: frames, chart and bars under one slider ------------------------------------------------------------------
const barsOf = (bars, movers) => {
  const list = make("ol");
  bars.names.forEach((name, k) => {
    const fill = make("i");
    const mark = make("b");
    const row = make("li", {}, cell("span", bars.pictures, 0, k, { "aria-hidden": "true" }), make("span", { text: name }),
      make("div", { class: "bar" }, fill, mark));
    list.append(row);
    movers.push((index) => {
      const measured = bars.measured[index][k] ?? 0;
      const predicted = bars.predicted[index][k] ?? 0;
      fill.style.width = `${100 * measured}%`;
      mark.style.left = `${100 * predicted}%`;
      row.classList.toggle("on", measured >= 0.5);
      row.setAttribute("aria-label", `${name}: ${Math.round(100 * measured)} %, theory ${Math.round(100 * predicted)} %`);
    });
  });
  return make("section", { class: "bars" }, make("h4", { text: bars.title }), list);
};

const filmOf = (film) => {
  const movers = [];
  const frames = make("div", { class: "frames" });
  if (film.split) frames.style.setProperty("--per-row", film.split);
  for (const sheet of film.frames) {
    const picture = cell("div", sheet, 0, 0, { role: "img", "aria-label": sheet.name });
    frames.append(make("figure", {}, picture, make("figcaption", { text: sheet.name })));
    movers.push((index) => place(picture, sheet, 0, Math.min(index, sheet.columns - 1)));
  }
  const last = film.captions.length - 1;
  const caption = make("output", { "aria-live": "polite" });
  const slider = make("input", { type: "range", min: 0, max: last, step: 1, value: film.start, "aria-label": "position in the film" });
  const button = make("button", { type: "button", class: "play", text: "▶ Play", disabled: "" });
  if (last > 0) button.removeAttribute("disabled");
  const show = () => {
    const index = Number(slider.value);
    movers.forEach((move) => move(index));
    caption.textContent = film.captions[index];
    slider.setAttribute("aria-valuetext", film.captions[index]);
  };
  let timer = null;
  const pause = () => {
    clearInterval(timer);
    timer = null;
    button.textContent = "▶ Play";
  };
  const tick = () => {
    if (!slider.isConnected || Number(slider.value) >= last) return pause();
    slider.value = Number(slider.value) + 1;
    show();
  };
  button.addEventListener("click", () => {
    if (timer) return pause();
    if (Number(slider.value) >= last) slider.value = 0;
    show();
    button.textContent = "❚❚ Pause";
    timer = setInterval(tick, Math.max(120, 5000 / (last + 1)));
  });
  slider.addEventListener("input", () => (pause(), show()));
  const scrub = make("div", { class: "scrub" }, button, slider, caption);
  const side = make("div", { class: "side" });
  if (film.chart) side.append(chartOf({ ...film.chart, follow: true }, movers));
  if (film.bars) side.append(barsOf(film.bars, movers));
  show();
  return make("div", { class: film.split ? "film split" : "film" }, frames, scrub, side);
};

// ---- grid: click a cell to open it ----------------------------------------------------------------------------------
const gridOf = (grid) => {
  const table = make("div", { class: "cells", style: { "--columns": grid.columns } });
  const opened = make("div", { class: "opened", "aria-live": "polite" });
  table.append(make("span"), ...grid.columnNames.map((name) => make("span", { class: "column", text: name })));
  const buttons = [];
  const open = (row, column) => {
    buttons.forEach((button) => button.setAttribute("aria-pressed", button.dataset.at === `${row},${column}`));
    const figure = (picture, text) => make("figure", {}, picture, make("figcaption", { text }));
    const caption = grid.captions[row][column];
    opened.replaceChildren(figure(cell("div", grid, row, column, { role: "img", "aria-label": caption }), caption));
    if (!grid.beside || grid.beside.name === grid.rowNames[row]) return; // it is the one that was opened
    const { name, columns } = grid.beside;
    opened.append(figure(cell("div", grid.beside, 0, Math.min(column, columns - 1), { role: "img", "aria-label": name }), name));
  };
  grid.rowNames.forEach((name, row) => {
    table.append(make("span", { class: "row", text: name }));
    grid.columnNames.forEach((_, column) => {
      const button = cell("button", grid, row, column, { type: "button", "aria-label": grid.captions[row][column] });
      button.dataset.at = `${row},${column}`;
      button.addEventListener("click", () => open(row, column));
      buttons.push(button);
      table.append(button);
    });
  });
  table.addEventListener("keydown", (event) => {
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -grid.columns, ArrowDown: grid.columns };
    const next = buttons[buttons.indexOf(event.target) + steps[event.key]];
    if (!next) return;
    event.preventDefault();
    next.focus();
    next.click();
  });
  const heading = make("h4", { text: `${grid.title} (click a picture to open it)` });
  return make("section", { class: "grid" }, heading, make("div", { class: "scroll" }, table), opened);
};

// ---- the whole answer -----------------------------------------------------------------------------------------------
const filesOf = (value) => {
  const figure = make("img", { src: value.figure, alt: `The figure of ${value.about}; its numbers are in the JSON file.` });
  const links = value.downloads.map(({ name, href }) => make("a", { href, download: name, text: name }));
  const summary = make("summary", { text: "The figure" });
  return [make("p", { class: "downloads" }, "Download: ", ...links), make("details", {}, summary, figure)];
};

// What was made from other settings than those that stand in the controls now says so, and steps back.
const age = () => {
  const { labels, now } = window.underpaint ?? {};
  const note = element.querySelector(".belongs");
  if (!note || !now) return;
  const same = (a, b) => JSON.stringify(a ?? "") === JSON.stringify(b ?? "");
  const other = Object.entries(props.value?.settings ?? {}).filter(([name, value]) => !same(value, now[name]));
  const told = ([name, value]) => `${labels[name]}: ${value === "" || value === null ? "empty" : value}`;
  const words = `These results belong to the old settings (${other.map(told).join(", ")}). ${props.again}`;
  note.parentNode.classList.toggle("old", other.length > 0);
  note.textContent = other.length ? words : "";
};

const render = () => {
  const value = props.value;
  const all = make("div", { class: "answer" }, make("p", { class: "belongs", role: "status" }));
  if (value?.film) all.append(filmOf(value.film));
  if (value?.grids) all.append(...value.grids.map(gridOf));
  if (value?.charts) all.append(make("div", { class: "charts" }, ...value.charts.map((chart) => chartOf(chart))));
  if (value?.words) all.append(make("div", { class: "words" }, ...value.words.map((text) => make("p", { text }))));
  if (value?.downloads) all.append(...filesOf(value));
  element.replaceChildren(all);
  age();
};

render();
document.addEventListener("underpaint-settings", age);
watch("value", render);
