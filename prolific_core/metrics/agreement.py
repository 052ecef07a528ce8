"""Does a judge that saw true renders only name what was asked for? (Toybox prompts only.)

Nothing is optimised or selected against the judge.
"""

from torch import Tensor


def agreement(views: Tensor, text: str) -> dict[str, float]:
    """Shares of the views (B, 3, H, W) in [0, 1] in which the judge names the prompt's family and colour.

    Empty for a prompt that the Toybox's world cannot parse: there is no known truth for it.
    """
    from prolific_core.prior.toybox import world
    from prolific_core.prior.toybox.classifier import load_classifier

    wanted = world.parse(text)
    if wanted is None:
        return {}
    family, colour = wanted
    judged = load_classifier().judge(views)
    return {
        "family_agreement": sum(name == family for name in judged.families) / len(views),
        "colour_agreement": sum(name == colour for name in judged.colours) / len(views),
    }
