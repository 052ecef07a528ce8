"""Train the U-Net with its text encoder: python -m prolific_core.prior.toybox.diffusion

Every step is a pure function of the checkpoint and (seed, step), so a killed
run that starts again ends as one that was not. SIGTERM checkpoints and ends.
The learning rate warms up and stays; `--cooldown START LENGTH` lets it fall, so
that the run before START can be continued for longer.
"""

from __future__ import annotations

import argparse
import signal
import time
from pathlib import Path

import numpy as np

from . import text
from .files import load_checkpoint, log_line, save_checkpoint, save_grid
from .params import AUTOENCODER, DIFFUSION, ROOT
from .shards import load_labels

PROMPTS = ("a red mug", "a blue chair", "a red mushroom", "a yellow house, front view", "a green car, side view",
           "a white snowman, back view", "a normal map of a teapot", "a purple rocket")


def build_unet():
    """A U-Net of 16 x 16 latents, 0.37 GFLOP forward; attention below full size only."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=16, in_channels=AUTOENCODER.latent, out_channels=AUTOENCODER.latent,
        block_out_channels=DIFFUSION.channels, layers_per_block=1, cross_attention_dim=DIFFUSION.text_width,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=4, norm_num_groups=16,
    )


def build_text_encoder(tok):
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(CLIPTextConfig(**text.text_config(tok, DIFFUSION.text_width, DIFFUSION.text_layers, DIFFUSION.text_heads)))


def build_scheduler():
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
        prediction_type="v_prediction", clip_sample=False, set_alpha_to_one=False, steps_offset=1,
    )


class Latents:
    """Cached latents and tokens of the encoded shards, in memory."""

    def __init__(self, root: Path, tok):
        self.root, self.tok, self.latents, self.tokens = root, tok, [], []

    def available(self) -> int:
        n = 0
        while (self.root / "latents" / f"train-{n:04d}.npy").exists():
            n += 1
        return n

    def load(self, count: int) -> None:
        for n in range(len(self.latents), count):
            self.latents.append(np.load(self.root / "latents" / f"train-{n:04d}.npy", allow_pickle=False))
            captions = [label["caption"] for label in load_labels(self.root, n)]
            self.tokens.append(text.encode(self.tok, captions).numpy().astype(np.int16))

    def batch(self, g: np.random.Generator, count: int, size: int):
        """((B, 6, 16, 16) float32, (B, L) int64) from the first `count` shards."""
        import torch

        index = g.integers(0, count * len(self.latents[0]), size)
        shard, row = np.divmod(index, len(self.latents[0]))
        z = np.stack([self.latents[s][r] for s, r in zip(shard, row)]).astype(np.float32)
        ids = np.stack([self.tokens[s][r] for s, r in zip(shard, row)]).astype(np.int64)
        return torch.from_numpy(z), torch.from_numpy(ids)


def ddim(unet, embed, scheduler, generator, cfg: float = 3.0, steps: int = 20):
    """Latents sampled for embeddings (2B, L, D): conditional first, then empty."""
    import torch

    n = len(embed) // 2
    z = torch.randn((n, unet.config.in_channels, 16, 16), generator=generator)
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps:
        v = unet(torch.cat([z, z]), t, embed).sample
        z = scheduler.step(v[n:] + cfg * (v[:n] - v[n:]), t, z).prev_sample
    return z


def sample_images(unet, text_encoder, tok, vae, prompts: list[str], seed: int = 0, cfg: float = 3.0, steps: int = 20, batch: int = 32):
    """Images (N, 3, 64, 64) in [0, 1], one for each prompt."""
    import torch

    generator, out = torch.Generator().manual_seed(seed), []
    with torch.no_grad():
        for k in range(0, len(prompts), batch):
            some = prompts[k : k + batch]
            embed = text_encoder(text.encode(tok, some + [""] * len(some)))[0]
            z = ddim(unet, embed, build_scheduler(), generator, cfg, steps)
            out.append((vae.decode(z / vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1))
    return torch.cat(out)


def learning_rate(step: int, cooldown: tuple[int, int] | None) -> float:
    """Warm up, stay, and (after cooldown = (start, length)) fall linearly."""
    rate = DIFFUSION.lr * min(1.0, (step + 1) / DIFFUSION.warmup)
    if cooldown and step >= cooldown[0]:
        rate *= max(0.0, 1 - (step - cooldown[0]) / cooldown[1])
    return rate


def load_weights(models, folder: Path) -> None:
    """Set the models' weights to a published folder's (its unet and text_encoder), in float32."""
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextModel

    models["unet"].load_state_dict(UNet2DConditionModel.from_pretrained(folder / "unet").float().state_dict())
    models["text_encoder"].load_state_dict(CLIPTextModel.from_pretrained(folder / "text_encoder").float().state_dict())


def train(root: Path, steps: int, cooldown: tuple[int, int] | None, seed: int = 5, initial: Path | None = None) -> None:
    import torch

    from . import autoencoder

    torch.set_num_threads(1)
    torch.manual_seed(seed)  # initial weights only; every draw below is seeded by its step
    tok = text.tokenizer()
    data = Latents(root, tok)
    models = torch.nn.ModuleDict({"unet": build_unet(), "text_encoder": build_text_encoder(tok)})
    if initial:
        load_weights(models, initial)
    average = torch.nn.ModuleDict({"unet": build_unet(), "text_encoder": build_text_encoder(tok)}).requires_grad_(False).eval()
    average.load_state_dict(models.state_dict())
    params, averaged = list(models.parameters()), list(average.parameters())
    optimizer = torch.optim.AdamW(params, lr=DIFFUSION.lr, betas=(0.9, 0.99), weight_decay=0.01, foreach=True)
    bars = build_scheduler().alphas_cumprod
    empty = text.encode(tok, [""])[0]
    path, step, shards = root / "diffusion" / "state.pt", 0, data.available()
    state = load_checkpoint(path)
    if state:
        models.load_state_dict(state["models"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        step, shards = state["step"], state["shards"]
    if not shards:
        raise SystemExit("no latents yet: run the autoencoder's freeze and encode phases")
    data.load(shards)
    stop = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(True))

    def checkpoint():
        save_checkpoint(path, {"models": models.state_dict(), "average": average.state_dict(), "optimizer": optimizer.state_dict(),
                               "step": step, "shards": shards})

    start, running, bins = time.time(), [], np.zeros((2, 4))
    while step < steps and not stop:
        g = np.random.default_rng((seed, step))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, cooldown)
        z, ids = data.batch(g, shards, DIFFUSION.batch)
        ids[torch.from_numpy(g.random(len(ids)) < DIFFUSION.drop_caption)] = empty
        noise = torch.from_numpy(g.standard_normal(z.shape, dtype=np.float32))
        # Stratified over the batch: the same distribution, a steadier loss.
        t = torch.from_numpy(((np.arange(len(z)) + g.random()) / len(z) * 1000).astype(np.int64) % 1000)
        a, s = bars[t].sqrt()[:, None, None, None], (1 - bars[t]).sqrt()[:, None, None, None]
        v = models["unet"](a * z + s * noise, t, models["text_encoder"](ids)[0]).sample
        each = (v - (a * noise - s * z)).square().mean((1, 2, 3))
        optimizer.zero_grad()
        each.mean().backward()
        torch.nn.utils.clip_grad_norm_(params, DIFFUSION.clip, foreach=True)
        optimizer.step()
        decay = min(DIFFUSION.ema, (1 + step) / (10 + step))
        torch._foreach_lerp_(averaged, params, 1 - decay)
        running.append(float(each.detach().mean()))
        np.add.at(bins, (0, (t.numpy() // 250)), each.detach().numpy())
        np.add.at(bins, (1, (t.numpy() // 250)), 1)
        step += 1
        if step % 50 == 0:
            log_line(root / "curves" / "diffusion.jsonl", step=step, loss=float(np.mean(running)), lr=learning_rate(step, cooldown),
                     by_t=[round(float(x), 4) for x in bins[0] / bins[1].clip(1)], shards=shards,
                     images_per_second=round(50 * DIFFUSION.batch / (time.time() - start), 1))
            start, running, bins = time.time(), [], np.zeros((2, 4))
        if step % DIFFUSION.checkpoint_every == 0 or step == 100:
            shards = max(shards, data.available())
            data.load(shards)
            checkpoint()
        if step % DIFFUSION.sample_every == 0 or step == 500:
            images = sample_images(average["unet"], average["text_encoder"], tok, autoencoder.load(root), [p for p in PROMPTS for _ in range(4)])
            save_grid(root / "samples" / f"step-{step:06d}.png", images.numpy(), 8)
            start = time.time()
    checkpoint()


def load_average(root: Path = ROOT):
    """(unet, text_encoder, tokenizer, step) of the checkpoint's averaged weights."""
    import torch

    state = load_checkpoint(root / "diffusion" / "state.pt")
    if state is None:
        raise SystemExit("no diffusion checkpoint yet")
    tok = text.tokenizer()
    models = torch.nn.ModuleDict({"unet": build_unet(), "text_encoder": build_text_encoder(tok)})
    models.load_state_dict(state["average"])
    models.eval().requires_grad_(False)
    return models["unet"], models["text_encoder"], tok, state["step"]


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=ROOT)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--initial", type=Path, help="a published folder to continue from, with a fresh optimizer")
    parser.add_argument("--cooldown", type=int, nargs=2, metavar=("START", "LENGTH"))
    args = parser.parse_args(argv)
    train(args.root, args.steps, tuple(args.cooldown) if args.cooldown else None, initial=args.initial)


if __name__ == "__main__":
    main()
