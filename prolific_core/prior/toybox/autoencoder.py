"""Train the autoencoder: python -m prolific_core.prior.toybox.autoencoder

Phases, each resumable and ended by wall time, so that a schedule can be kept:

    joint     encoder and decoder on the mean (posterior sampling from the start
              plateaus at 18 dB), beginning at a linear codec (codec_init)
    freeze    normalise the latents; from here on the encoder stays
    encode    every finished shard to cached latents
    decoder   the decoder alone; the latents stay valid
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from .files import load_checkpoint, log_line, save_array, save_checkpoint, save_grid, write_json
from .params import AUTOENCODER, DATA, ROOT
from .shards import heldout_images, load_images, shard_numbers, to_unit


def build(latent: int = AUTOENCODER.latent, channels=AUTOENCODER.channels):
    """A small AutoencoderKL: 64 x 64 x 3 -> 16 x 16 x latent."""
    from diffusers import AutoencoderKL

    n = len(channels)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * n, up_block_types=("UpDecoderBlock2D",) * n,
        block_out_channels=channels, layers_per_block=1, latent_channels=latent, norm_num_groups=4,
        sample_size=DATA.size, mid_block_add_attention=False, force_upcast=False, scaling_factor=1.0,
    )


def encode_mean(vae, images):
    """Latents (B, latent, 16, 16) before scaling; images (B, 3, S, S) in [-1, 1]."""
    return vae.encode(images).latent_dist.mode()


def psnr(a, b) -> float:
    """dB over images in [-1, 1] (a range of 2), one mean square over all."""
    return float(10 * np.log10(4.0 / float((a - b).square().mean())))


def loss_of(vae, images, kl: float):
    """Reconstruction on the mean, L1 + MSE; a weak KL keeps the latents' scale."""
    posterior = vae.encode(images).latent_dist
    d = vae.decode(posterior.mode()).sample - images
    return d.abs().mean() + 2.0 * d.square().mean() + kl * posterior.mean.square().sum(dim=(1, 2, 3)).mean()


def evaluate(vae, images, picture: Path | None = None) -> float:
    """Held-out PSNR in dB of uint8 (N, S, S, 3); optionally a sheet of pairs."""
    import torch

    vae.eval()
    x = to_unit(images)
    with torch.no_grad():
        y = torch.cat([vae.decode(encode_mean(vae, b)).sample for b in x.split(64)]).clamp(-1, 1)
    vae.train()
    if picture:
        both = torch.stack([x[:32], y[:32]], 1).flatten(0, 1)
        save_grid(picture, ((both + 1) / 2).numpy(), 8)
    return psnr(x, y)


def batches(root: Path, seed: int, step: int, batch: int, newest: int):
    """A batch of uint8 images, a pure function of (seed, step) and the shards there are."""
    g = np.random.default_rng((seed, step))
    images = load_images(root, int(g.integers(newest)))
    return np.asarray(images[np.sort(g.choice(len(images), batch, replace=False))])


def train(root: Path, minutes: float, phase: str) -> None:
    """Joint or decoder-only training for some minutes of wall time, with decay to zero."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(11)
    vae = build()
    params = list(vae.parameters()) if phase == "joint" else [*vae.decoder.parameters(), *vae.post_quant_conv.parameters()]
    path, state = root / "vae" / "state.pt", load_checkpoint(root / "vae" / "state.pt")
    optimizer = torch.optim.AdamW(params, lr=AUTOENCODER.lr, betas=(0.9, 0.99), weight_decay=0.0)
    step, used = 0, 0.0
    if state:
        vae.load_state_dict(state["vae"])
        vae.register_to_config(scaling_factor=state["scaling_factor"])
        if state["phase"] == phase:
            optimizer.load_state_dict(state["optimizer"])
            step, used = state["step"], state["used"]
        elif phase == "joint":
            raise SystemExit("the encoder is frozen: its latents are in use; only --phase decoder may train")
    elif phase == "decoder":
        raise SystemExit("no autoencoder yet: run --phase joint first")
    if not state:
        from . import codec_init

        first = np.asarray(load_images(root, 0)[:1024])
        codec_init.start_encoder(vae, first)
        codec_init.start_decoder(vae, first)
    if phase == "decoder":
        vae.encoder.requires_grad_(False)
        vae.quant_conv.requires_grad_(False)
    test, _ = heldout_images(count=128)
    peak = AUTOENCODER.lr if phase == "joint" else AUTOENCODER.lr * 0.7
    vae.to(memory_format=torch.channels_last)
    last = time.time()
    running = []

    def checkpoint():
        save_checkpoint(path, {"vae": vae.state_dict(), "optimizer": optimizer.state_dict(), "step": step, "used": used,
                               "phase": phase, "scaling_factor": float(vae.config.scaling_factor)})

    while used < minutes * 60:
        done = used / (minutes * 60)
        for group in optimizer.param_groups:
            group["lr"] = peak * min(1.0, (step + 1) / 100) * max(0.02, 1 - done) ** 1.0
        x = to_unit(batches(root, 3 if phase == "joint" else 4, step, AUTOENCODER.batch, len(shard_numbers(root))))
        x = x.contiguous(memory_format=torch.channels_last)
        if phase == "joint":
            loss = loss_of(vae, x, AUTOENCODER.kl)
        else:
            with torch.no_grad():
                z = encode_mean(vae, x)
            d = vae.decode(z).sample - x
            loss = d.abs().mean() + 2.0 * d.square().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()
        running.append(float(loss.detach()))
        step += 1
        now = time.time()
        used, last = used + now - last, now
        if step % 250 == 0:
            db = evaluate(vae, test, root / "samples" / "vae.png" if step % 1000 == 0 else None)
            log_line(root / "curves" / "autoencoder.jsonl", phase=phase, step=step, loss=float(np.mean(running)),
                     psnr_db=db, seconds=used)
            running.clear()
            checkpoint()
    checkpoint()
    log_line(root / "curves" / "autoencoder.jsonl", phase=phase, step=step, psnr_db=evaluate(vae, test, root / "samples" / "vae.png"))


def load(root: Path = ROOT):
    """The trained autoencoder, in eval mode."""
    state = load_checkpoint(root / "vae" / "state.pt")
    if state is None:
        raise SystemExit("no autoencoder yet: run --phase joint first")
    vae = build()
    vae.load_state_dict(state["vae"])
    vae.register_to_config(scaling_factor=state["scaling_factor"])
    return vae.eval()


def freeze(root: Path) -> None:
    """Fold a per-channel normalisation into the two 1 x 1 convolutions.

    After it every latent channel has mean 0 and deviation 1, so that
    scaling_factor is 1 and the decoder's output is unchanged.
    """
    import torch

    state = load_checkpoint(root / "vae" / "state.pt")
    vae = load(root)
    x = to_unit(np.asarray(load_images(root, 0)[:1024]))
    with torch.no_grad():
        z = torch.cat([encode_mean(vae, b) for b in x.split(64)])
        before = vae.decode(z[:8]).sample
        mean, std = z.mean((0, 2, 3)), z.std((0, 2, 3))
        k = vae.config.latent_channels
        q, p = vae.quant_conv, vae.post_quant_conv
        q.weight[:k] /= std[:, None, None, None]
        q.bias[:k] = (q.bias[:k] - mean) / std
        # The untrained log variance must not matter: make it tiny and constant.
        q.weight[k:] = 0
        q.bias[k:] = -12.0
        p.bias += (p.weight[:, :, 0, 0] * mean).sum(1)
        p.weight *= std[None, :, None, None]
        after = vae.decode(encode_mean(vae, x[:8])).sample
    assert (before - after).abs().max() < 1e-3, "the fold changed the decoder"
    print("channel means", mean.tolist(), "deviations", std.tolist())
    save_checkpoint(root / "vae" / "state.pt", {**state, "vae": vae.state_dict(), "phase": "frozen", "scaling_factor": 1.0})
    write_json(root / "vae" / "latent_stats.json", {"mean": mean.tolist(), "std": std.tolist()})


def encode(root: Path) -> None:
    """Latents (N, 16, 16, latent) float16 of every finished shard."""
    import torch

    torch.set_num_threads(1)
    vae = load(root).to(memory_format=torch.channels_last)
    for number in shard_numbers(root):
        path = root / "latents" / f"train-{number:04d}.npy"
        if path.exists():
            continue
        x = np.asarray(load_images(root, number))
        with torch.no_grad():
            z = torch.cat([encode_mean(vae, to_unit(x[k : k + 64])) for k in range(0, len(x), 64)])
        save_array(path, z.numpy().astype(np.float16))
        print(f"encoded {number}", flush=True)


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=ROOT)
    parser.add_argument("--phase", choices=("joint", "freeze", "encode", "decoder"), required=True)
    parser.add_argument("--minutes", type=float, default=16)
    args = parser.parse_args(argv)
    if args.phase == "freeze":
        freeze(args.root)
    elif args.phase == "encode":
        encode(args.root)
    else:
        train(args.root, args.minutes, args.phase)


if __name__ == "__main__":
    main()
