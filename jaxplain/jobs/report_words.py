"""What a report says of methods, of the sanity check and of its own limits."""

import math

from jaxplain.jobs.report import CONTROL, Check, Found
from jaxplain.render.report.parts import Verdict

PASSES, FAILS = 0.5, 0.8  # |rank correlation|: below the first a map passes, from the second on it fails

TITLES = {
    "random": "Random numbers",
    "edges": "Edge detector",
    "gradient": "Gradient",
    "input_x_gradient": "Input x gradient",
    "integrated_gradients": "Integrated gradients",
    "smooth_grad": "SmoothGrad",
    "var_grad": "VarGrad",
    "grad_cam": "Grad-CAM",
    "grad_cam++": "Grad-CAM++",
    "excitation_backprop": "Excitation backprop",
    "contrastive_excitation": "Contrastive excitation backprop",
    "rise": "RISE",
    "occlusion": "Occlusion",
    "meaningful_perturbation": "Meaningful perturbation",
    "extremal_perturbation": "Extremal perturbation",
    "igos": "I-GOS",
    "igos+": "iGOS+",
    "igos++": "iGOS++",
}

_ABOUT = {
    "random": "A control: numbers drawn at random, which every method must beat.",
    "edges": "A control: the edges of the photo, whatever the network has learned.",
    "gradient": "How strongly the score reacts to a tiny change of each pixel.",
    "input_x_gradient": "The gradient times what stands in the pixel.",
    "integrated_gradients": "The score's rise from the baseline to the photo, shared out among the pixels by "
    "the gradients on the way.",
    "smooth_grad": "The gradient, averaged over noisy copies of the photo.",
    "var_grad": "How much the gradient varies over noisy copies of the photo.",
    "grad_cam": "Where features of the last convolution speak for the class; coarse by its nature.",
    "grad_cam++": "As Grad-CAM, with places weighted so that several objects of the class all show.",
    "excitation_backprop": "The class's evidence, handed down layer by layer to where it came from.",
    "contrastive_excitation": "The evidence handed down for the class, less that against it.",
    "rise": "Mean score of many random masks, for the pixels that each leaves visible.",
    "occlusion": "How far the score falls when a square of the photo is hidden.",
    "meaningful_perturbation": "A small mask, found by optimisation, whose blurring lowers the score.",
    "extremal_perturbation": "The tenth of the photo that keeps the score highest, found by optimisation.",
    "igos": "A small mask, optimised along integrated gradients: to hide it lowers the score.",
    "igos+": "One mask, optimised twice over: to hide it lowers the score, to show only it keeps it.",
    "igos++": "Two masks, optimised together: to hide one lowers the score, the other alone keeps it.",
}


def title(method: str) -> str:
    """A method's name as papers write it.

    Example:
        >>> title("igos++"), title("igos++ no insertion")
        ('iGOS++', 'iGOS++ no insertion')
    """
    return TITLES.get(method) or method.replace("igos++ ", "iGOS++ ")


def about(method: str) -> str:
    """What a method does, in a sentence."""
    if method.startswith("igos++ "):
        return f"An ablation of iGOS++: {method.removeprefix('igos++ ')}."
    return _ABOUT.get(method, "")


def verdict(check: Check | None) -> Verdict:
    """Of the sanity check of one map.

    Example:
        >>> [verdict(Check(None, rank, False)) for rank in (0.1, 0.6, 1.0)]
        ['passes', 'unclear', 'fails']
    """
    if check is None or math.isnan(check.rank):
        return "n/a"
    return "passes" if check.rank < PASSES else "fails" if check.rank >= FAILS else "unclear"


def verdict_words(check: Check, control: bool) -> str:
    """What the sanity check says of one map, in words."""
    found = verdict(check)
    if found == "n/a":
        return "it could not be told"
    if control:
        return "fails, as it must" if found == "fails" else f"{found}, but must fail"
    if check.flat:
        return "passes: the shuffled network leaves nothing of the map"
    return {
        "passes": "passes: the map is another one",
        "unclear": "unclear: part of the map owes nothing to what was learned",
        "fails": "fails: much the same map without anything learned",
    }[found]


def check_words(maps: tuple[Found, ...], control: Found | None) -> str:
    """What the sanity checks say together."""
    by_verdict: dict[Verdict, list[str]] = {}
    for one in maps:
        if one.check is not None and one.method != CONTROL:
            by_verdict.setdefault(verdict(one.check), []).append(title(one.method))
    failed = by_verdict.get("fails", [])
    unclear = by_verdict.get("unclear", [])
    total = sum(map(len, by_verdict.values()))
    parts = [f"{len(by_verdict.get('passes', []))} of {total} methods pass."] if total else []
    if failed:
        parts.append(f"Do not read as explanations: {', '.join(failed)}.")
    if unclear:
        parts.append(f"Read with care: {', '.join(unclear)}.")
    if control is None or verdict(control.check) != "fails":
        parts.append("The control did not fail as it must, so that on this photo the check says little.")
    else:
        parts.append("The control, an edge detector, fails as it must.")
    return " ".join(parts)


def limits(baseline: str, size: int, sanity: bool, sag: bool) -> list[str]:
    """What a report cannot tell."""
    texts = [
        "Everything here is about this network on these photos. It says what the network's score reacts to: "
        "not that the network is right, and not what a person would see.",
        f"What is hidden is replaced by the baseline ({baseline}). Such pictures are unlike the photos that "
        "the network has learned from, and another baseline gives other maps and curves.",
        f"All maps are shown and measured at {size} x {size} cells: what is finer is averaged away.",
        "An area ranks maps by what the network does, not by how well people understand them. One photo "
        "proves no method better than another: jaxplain compare measures many.",
        "The network's probability is not the chance that it is right.",
    ]
    if sanity:
        texts.append(
            "The sanity check is one shuffle on one photo, and its limits of "
            f"{PASSES} and {FAILS} are conventions. To pass is necessary for an explanation, not sufficient."
        )
    if sag:
        texts.append(
            "The search for sufficient patches finds many sets and need not find all. Patches are coarse; "
            "that a set suffices on this baseline says nothing of another one."
        )
    return texts
