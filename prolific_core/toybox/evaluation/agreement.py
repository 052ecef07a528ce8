"""Agreement between prompts of the Toybox world and the predictions of a classifier.

The classifier is trained on true renders only, and no model is trained on its predictions.
"""

from jaxtyping import Float
from torch import Tensor

from prolific_core.prior.location import TOYBOX


def agreement(views: Float[Tensor, "views 3 height width"], text: str) -> dict[str, float]:
    """Compute the fractions of views for which the classifier predicts the prompt's family and colour.

    Args:
        views: Renders in [0, 1].
        text: Prompt.

    Returns:
        `family_agreement` and `colour_agreement`, in [0, 1]. The dict is empty if the prompt cannot be parsed or if the
        classifier's weights are not installed.
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
