"""Gradients of the guidance methods, written out from their papers with the parts of by_formula.py.

A function is named after the method whose gradient it returns, which a test finds by this name. Its arguments are the
prior, the latents, the noise, the time steps, the views and the guidance scale.
"""

import torch

from prolific_core import cameras
from tests.support.by_formula import PROMPT, alpha_bar, eps, guided, noised

NEGATIVE = "a blue chair"
OPTIONS = {  # of the methods under test; values that differ from the defaults
    "nfsd": {"negative_prompt": NEGATIVE, "options": {"nfsd": {"threshold": 0.3}}},
    "csd": {"negative_prompt": NEGATIVE, "options": {"csd": {"negative_scale": 2.0}}},
    "bridge": {"options": {"bridge": {"start": 0.0, "scale": 11.0, "source": "a map", "target": "a photo"}}},
    "ism": {"options": {"ism": {"interval": 0.04, "stride": 0.15}}, "weighting": "sigma_over_alpha"},
    "sdi": {"options": {"sdi": {"inversion_steps": 8}}},
    "asd": {"options": {"asd": {"ratio": 0.2}}},
}


def sigma_squared(prior, t):
    return 1 - alpha_bar(prior, t)


def of(prior, text, x, t):
    return eps(prior, x, t, prior.embed([text] * len(t)))


def seen(prior, x, t, views, text=PROMPT):
    return eps(prior, x, t, prior.embed([f"{text}, {words}" for words in cameras.view_prompts(views)]))


def sds(prior, x, noise, t, views, scale):
    return sigma_squared(prior, t) * (guided(prior, noised(prior, x, noise, t), t, views, scale) - noise)


cfd = sds  # in the first step, when the particle has no noise yet


def csd(prior, x, noise, t, views, scale):
    x_t = noised(prior, x, noise, t)
    none, against = of(prior, "", x_t, t), of(prior, NEGATIVE, x_t, t)
    return sigma_squared(prior, t) * (scale * (seen(prior, x_t, t, views) - none) + 2 * (none - against))


def nfsd(prior, x, noise, t, views, scale):
    x_t = noised(prior, x, noise, t)
    none, against = of(prior, "", x_t, t), of(prior, NEGATIVE, x_t, t)
    domain = torch.stack([none[i] if t[i] < 300 else none[i] - against[i] for i in range(len(t))])
    return sigma_squared(prior, t) * (domain + scale * (seen(prior, x_t, t, views) - none))


def bridge(prior, x, noise, t, views, scale):
    x_t = noised(prior, x, noise, t)
    target, source = (seen(prior, x_t, t, views, f"{PROMPT}, {words}") for words in ("a photo", "a map"))
    return sigma_squared(prior, t) * 11 * (target - source)


def asd(prior, x, noise, t, views, scale):
    later = torch.tensor([int(k) + int(0.2 * (int(k) - 20)) for k in t]).clamp(max=999)
    first = guided(prior, noised(prior, x, noise, t), t, views, scale)
    return sigma_squared(prior, t) * (first - seen(prior, noised(prior, x, noise, later), later, views))


def moved(prior, x, e, now, then):
    """Return DDIM's step of a single row, with plain numbers for alpha and sigma."""
    a, b = (float(prior.scheduler.alphas_cumprod[k]) for k in (now, then))
    return b**0.5 * (x - (1 - a) ** 0.5 * e) / a**0.5 + (1 - b) ** 0.5 * e


def trajectory(prior, x, end, stride, predict):
    """Follow DDIM's trajectory of a single row from 0 to `end`."""
    now = 0
    while now < end:
        then = min(now + stride, end)
        x = moved(prior, x, predict(x, torch.tensor([now])), now, then)
        now = then
    return x


def ism(prior, x, noise, t, views, scale):
    rows = []
    for i, k in enumerate(t.tolist()):
        s, start = max(k - 40, 0), torch.zeros(1, dtype=torch.long)

        def none(row, now):
            return of(prior, "", row, now)

        x_s = trajectory(prior, noised(prior, x[i : i + 1], noise[i : i + 1], start), s, 150, none)
        eps_s = none(x_s, torch.tensor([s]))
        x_t = moved(prior, x_s, eps_s, s, k)
        rows.append(guided(prior, x_t, t[i : i + 1], views[i : i + 1], scale) - eps_s)
    a = alpha_bar(prior, t)
    return ((1 - a) / a).sqrt() * torch.cat(rows)


def sdi(prior, x, noise, t, views, scale):
    rows = []
    for i, k in enumerate(t.tolist()):
        view, a = views[i : i + 1], alpha_bar(prior, t[i : i + 1])

        def inverted(row, now, view=view):
            return guided(prior, row, now, view, -6.5)

        x_t = trajectory(prior, x[i : i + 1], k, 125, inverted)
        e = guided(prior, x_t, t[i : i + 1], view, scale)
        rows.append(x[i : i + 1] - (x_t - (1 - a).sqrt() * e) / a.sqrt())
    return torch.cat(rows)
