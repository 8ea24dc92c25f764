"""Is a network a denoiser of its stated schedule?"""
