"""Agreement of a classifier, trained on true renders only, with a prompt of the Toybox world.

Nothing is optimised or selected against the classifier.
"""

from jaxtyping import Float
from torch import Tensor

from prolific_core.prior.location import TOYBOX


def agreement(views: Float[Tensor, "views 3 height width"], text: str) -> dict[str, float]:
    """Return the fractions of views in which the classifier names the prompt's family and its colour.

    Args:
        views: Renders in [0, 1].
        text: Prompt.

    Returns:
        `family_agreement` and `colour_agreement`; empty for a prompt that the world cannot parse, since its truth is
        not known, and in an installation without the classifier's weights.
    """
    from prolific_core.toybox.evaluation.classifier import load_classifier
    from prolific_core.toybox.world import draw as world

    wanted = world.parse(text)
    if wanted is None or not (TOYBOX / "classifier").is_dir():
        return {}
    family, colour = wanted
    predicted = load_classifier().classify(views)

    def fraction(answers: Tensor, names: list[str], name: str) -> float:
        return sum(names[answer] == name for answer in answers.tolist()) / len(answers)

    return {
        "family_agreement": fraction(predicted.family, predicted.names["family"], family),
        "colour_agreement": fraction(predicted.colour, predicted.names["colour"], colour),
    }
