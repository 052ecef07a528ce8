"""Does a judge that saw true renders only name what was asked for? (Toybox prompts only.)

Nothing is optimised or selected against the judge.
"""

from torch import Tensor

from prolific_core.prior.location import TOYBOX


def agreement(views: Tensor, text: str) -> dict[str, float]:
    """Shares of the views (B, 3, H, W) in [0, 1] in which the judge names the prompt's family and colour.

    Empty for a prompt that the Toybox's world cannot parse, since it has no known truth, and in an
    installation without the judge's weights.
    """
    from prolific_core.toybox.evaluation.classifier import load_classifier
    from prolific_core.toybox.world import draw as world

    wanted = world.parse(text)
    if wanted is None or not (TOYBOX / "classifier").is_dir():
        return {}
    family, colour = wanted
    seen = load_classifier().judge(views)

    def share(answers: Tensor, names: list[str], name: str) -> float:
        return sum(names[answer] == name for answer in answers.tolist()) / len(answers)

    return {
        "family_agreement": share(seen.family, seen.names["family"], family),
        "colour_agreement": share(seen.colour, seen.names["colour"], colour),
    }
