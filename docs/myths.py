"""Writes MYTHS.md: what people say of preference optimization, what is exactly true, and the claims that show it.

    python docs/myths.py

A row's numbers are those of claims of `toy_models.experiments`, each of which has to hold.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from toy_models.experiments import EXPERIMENTS, Claim

PAGE = Path(__file__).parents[1] / "MYTHS.md"

Claims = Mapping[str, Claim]


class Myth(NamedTuple):
    """truth: format fields are the numbers of the claims, whose beginnings `shown` names, by experiment"""

    said: str
    truth: str
    shown: tuple[tuple[str, str], ...]

    def row(self, claims_of: Callable[[str], Claims]) -> str:
        """A line of the table; raises `ValueError` where a claim does not hold, or is none"""
        numbers = []
        for experiment, beginning in self.shown:
            found = [claim for sentence, claim in claims_of(experiment).items() if sentence.startswith(beginning)]
            if len(found) != 1 or not found[0].holds:
                raise ValueError(f"{experiment}: {len(found)} claims begin with {beginning!r}; expected one that holds")
            numbers.append(found[0].number)
        by = ", ".join(f"`{name}`" for name in dict.fromkeys(name for name, _ in self.shown))
        return f"| {self.said} | {self.truth.format(*numbers)} | {by} |"

    @property
    def needs(self) -> set[str]:
        return {name for name, _ in self.shown}


HEAD = """# What people say, and what is true

Sentences of tutorials, papers, interviews and discussions, beside what exact computation says in worlds small enough to
sum over. Most are true on a condition that was left out. `dpo-numpy run NAME` runs the experiment of that name and
prints the claims behind the row, with the numbers that decide them. Made by `python docs/myths.py`, which refuses a row
whose claims do not hold.

| people say | what is true | shown by |
| --- | --- | --- |
"""


def page(claims_of: Callable[[str], Claims]) -> str:
    return HEAD + "".join(myth.row(claims_of) + "\n" for myth in MYTHS)


MYTHS: tuple[Myth, ...] = (
    # ---- beta
    Myth(
        "A lower β moves the policy farther. (Tutorials.) A low β hardly moves it. (Code that trains for a while.)",
        "Both. At the optimum KL(π \\|\\| π_ref) falls as β rises, without exception. After T steps of plain descent "
        "the β that has moved most is c/√T, c known (measured over it: {1:.2f}); a smaller one has hardly begun. "
        "With steps of η/β² the tutorials are right at every T. In its first steps Adam can "
        "hardly tell one β from another.",
        (("beta_two_knobs", "at the optimum KL falls"), ("beta_two_knobs", "the β that moves most"),
         ("beta_two_knobs", "with steps of η/β²"), ("beta_two_knobs", "Adam can hardly tell")),
    ),
    Myth(
        "β keeps the policy near the reference, whatever the labels.",
        "Not where labels are always the same: no β keeps π(y_w) from 1 then ({0:.2f} at the least, the margin "
        "growing like log t). β sets the pace. What stops are IPO, at a gap of 1/(2τ), and cDPO.",
        (("certain_labels", "no β keeps"), ("certain_labels", "IPO stops"), ("certain_labels", "cDPO stops")),
    ),
    Myth(
        "A small β is simply the bolder choice.",
        "It buys variance too: of n labels the error in log π is as 1/(β √n). Of 100 labels, in the example, even J "
        "at a price of β is served best by training at {1:.1f} β.",
        (("root_n", "KL to π* is tr(S F⁺)"), ("root_n", "few labels are best trained")),
    ),
    Myth(
        "A reference that was left unfrozen trains a little differently.",
        "It trains without an anchor: the loss is log 2 for ever, β scales the step and nothing else, and the policy "
        "drifts as π_ref e^(ηβtd)/Z to one response, not even the best one where pairs are met unevenly. TR-DPO is "
        "not that: k rounds, each to its end, are one of β/k.",
        (("beta_two_knobs", "an unfrozen reference has"), ("beta_two_knobs", "and a policy that drifts"),
         ("beta_two_knobs", "so that β only scales"), ("beta_two_knobs", "an unfrozen one goes where"),
         ("beta_two_knobs", "TR-DPO's k rounds")),
    ),
    # ---- what is pushed where
    Myth(
        "DPO pushes the log-probability of the chosen response up.",
        "It trains the gap. Where two responses are drawn from π_ref and one is chosen, the chosen has *fallen* at "
        "the exact optimum for every β below a crossover: in {1:.0%} of 192 random problems at β = 0.1. To lift it "
        "costs regret: with one NLL added, {2:.0%} of the reference's.",
        (("winning_not_likelier", "below the crossover"), ("winning_not_likelier", "random problems whose chosen"),
         ("winning_not_likelier", "DPO + α NLL leaves π*")),
    ),
    Myth(
        "Its gradient raises the chosen and lowers the rejected.",
        "Of one pair in a table, always. Of one pair in a bigram, at the first step, if no context comes back: {0:.0f} "
        "exceptions; if one does, not in {1:.1%} of the pairs tried. Of several pairs, no: more than {2:.0%} of the "
        "chosen of a sparse table end below the reference.",
        (("winning_not_likelier", "a bigram, no context twice"), ("winning_not_likelier", "a bigram that comes back"),
         ("winning_not_likelier", "tables of several")),
    ),
    Myth(
        "The gradient tells what training will do.",
        "At its first step: {0:.0%} of chosen and {1:.0%} of rejected responses go where inner products of scores "
        "say. After the last step significantly fewer chosen do. What is sure is the gap.",
        (("predict_three_pairs", "after the first step chosen"),
         ("predict_three_pairs", "after the first step rejected"),
         ("predict_three_pairs", "but after the last"), ("predict_three_pairs", "what is sure in the end")),
    ),
    Myth(
        "Pushing the rejected down feeds the likeliest response (squeezing).",
        "Of a rejected response alone, at any step size. In a DPO pair of one softmax the normalizers cancel, and "
        "all other responses keep their ratios exactly. In strings it happens at contexts that the rejected visits "
        "more often than the chosen.",
        (("negative_gradient", "alone, the pushed never rises"), ("negative_gradient", "in a pair they keep"),
         ("negative_gradient", "strings: where only the rejected"),
         ("negative_gradient", "strings: contexts that both")),
    ),
    Myth(
        "DPO's gradient on the rejected is larger than on the chosen.",
        "In probabilities, by the factor π_w/π_l, where that is above 1. In log-probabilities both are alike. The "
        "imbalance is one of coordinates.",
        (("negative_gradient", "the imbalance is one of coordinates"),),
    ),
    Myth(
        "The DPO loss is convex.",
        "In a table's logits. In an n-gram's, a single pair's is if and only if no context is the rejected's more "
        "often than the chosen's, wherever a context has three outcomes or more.",
        (("negative_gradient", "a pair is convex iff"), ("negative_gradient", "of two outcomes")),
    ),
    # ---- data
    Myth(
        "A shift between the data's distribution and the reference's quietly ruins DPO.",
        "Which pairs are met decides on nothing, be a response met 8e-6 times as often as another, unless one of "
        "five things is amiss: comparisons that leave responses unconnected, few labels, a class that misses π\\*, "
        "labels that no reward explains, too few steps. The first costs the same however groups are sampled; each of "
        "the others lets the shift in. By how much can be predicted.",
        (("distribution_shift", "nothing amiss: uniform"), ("distribution_shift", "disconnected, wrong class"),
         ("distribution_shift", "finite n: J* - J is"), ("distribution_shift", "finite steps: the slowest")),
    ),
    Myth(
        "DPO needs data that cover all responses.",
        "A population needs a connected graph of comparisons, and a chain will do. Full coverage does not help a "
        "class of policies that misses π\\*: there the pairs' distribution picks the answer, which can be worse than "
        "the reference.",
        (("comparison_graph", "a chain is enough"), ("wrong_class", "a class that holds π*"),
         ("wrong_class", "arms: and with all pairs met")),
    ),
    Myth(
        "Of responses that were never compared nothing can be known: anything may happen to them.",
        "In a table descent settles it: the mean logit of each part of the comparison graph stays, so that an unseen "
        "response ends as if its reward were the plain mean of the others. Adam does not keep that mean.",
        (("comparison_graph", "a link cut, steps along"), ("comparison_graph", "an unseen response is worth"),
         ("comparison_graph", "Adam's steps do not keep")),
    ),
    Myth(
        "From a certain pair DPO may return (0.1, 0, 0.9): it can favor what nobody compared.",
        "Its loss is as low there, and in a table descent never goes there: the unseen response peaks at a height "
        "that a formula tells and falls to 0. A feature that it shares with the chosen lifts it to {1:.2f}.",
        (("comparison_graph", "(0.1, 0, 0.9) has"), ("comparison_graph", "a shared feature lifts"),
         ("comparison_graph", "a table's unseen response")),
    ),
    Myth(
        "IPO's example {(a, b), (b, a)}: DPO drives the action that was never observed to 0, IPO does not.",
        "As printed, neither moves: the gradient at the reference is 0. With a loss of c added, (a, c), it is true: "
        "DPO's π(c) goes to 0, IPO's to {2:.4f}.",
        (("certain_labels", "(a, b), (b, a) as printed"), ("certain_labels", "with (a, c) DPO"),
         ("certain_labels", "and IPO keeps it")),
    ),
    Myth(
        "On-policy pairs are better.",
        "In a class that misses π\\* they can be: pairs of the policy lose {0:.0f} times less where the peak of the "
        "reward is unlikely under the reference. Labels that no reward explains are made worse by them, {2:.0f} "
        "times. n labels tell more of pairs half way from the reference to π\\* than at either, in the "
        "example.",
        (("wrong_class", "peak: pairs of the reference"), ("distribution_shift", "finite n: labels say more"),
         ("distribution_shift", "new pairs make circles")),
    ),
    Myth(
        "A reward model smooths label noise; DPO takes labels at face value.",
        "Of the same labels, a reward model with e^(r/β) and DPO make one policy, in a table and in features. What "
        "smooths is sharing (with few labels a table has {2:.1f} times the regret of features), and neither removes "
        "the bias of flips: only a loss that knows them does.",
        (("noise", "reward model, then"), ("noise", "rDPO that is told ε"), ("noise", "what smooths is sharing"),
         ("noise", "and the bias stays")),
    ),
    Myth(
        "Label smoothing (cDPO) is the remedy for flipped labels.",
        "cDPO of clean labels is DPO of flipped ones, so that it adds to flips: {1:.1f} times DPO's regret. rDPO "
        "that is told ε is exact, most labels repay it, few do not ({3:.1f} times DPO's regret at n = 100), and it "
        "may have no optimum.",
        (("noise", "cDPO of clean labels"), ("noise", "so that it adds"), ("noise", "most labels repay rDPO"),
         ("noise", "few labels do not"), ("noise", "few labels: data sets in which")),
    ),
    Myth(
        "How much voters disagree is the noise to tell rDPO.",
        "Much of it is that answers are close. Voters of LLMFAO disagree so often that rDPO, told this share, has no "
        "minimum (it would have one up to {0:.3f}, on one vote a pair), and loses {1:.2f} nats a held-out vote.",
        (("human_votes", "rDPO at that ε has no minimum"), ("human_votes", "rDPO costs held-out votes"),
         ("human_votes", "voters agree more than strengths")),
    ),
    # ---- length
    Myth(
        "People prefer longer answers.",
        "In OASST, {0:.0%} of the time; in HH's harmless pairs the shorter one wins more often. In LLMFAO people "
        "lean against length once 289 empty answers are left out, less so once each model's strength is known, and "
        "13 prompts cannot tell that from chance. GPT-4 there is surely against it.",
        (("longer_wins", "OASST: the longer one wins"), ("longer_wins", "HH: the longer one loses"),
         ("human_votes", "people, strengths known, without"), ("human_votes", "but 13 prompts"),
         ("human_votes", "GPT-4 is sure"), ("human_votes", "2,139 pairs, 289")),
    ),
    Myth(
        "DPO gets verbose because longer answers are easier to prefer.",
        "At its optimum it is as long as that of the labels' reward. If that gains λ a token there is a critical β = "
        "λ/(-log ρ), {0:.3f} in the example, towards which E\\|y\\| grows without end. And labels that are coin "
        "flips lengthen too where β √n is small, since E\\|y\\| is convex in what noise moves.",
        (("length", "length alone has a critical β"), ("length", "coin flips lengthen"),
         ("length", "coin flips hardly do")),
    ),
    Myth(
        "If chosen answers are longer on average, the policy gets longer.",
        "Neither necessary nor enough: chosen responses can be shorter and the optimum longer, or the other way "
        "round. On the way there, length may fall first and rise later.",
        (("length", "shorter chosen may lengthen"), ("length", "length may fall first")),
    ),
    Myth(
        "Dividing by length cures length bias.",
        "Of labels that gain λ a token, R-DPO with α = λ recovers the optimum exactly; another α loses the square of "
        "the error; LN-DPO, SimPO, LD-DPO and a larger β all leave regret ({2:.2f} at the least), and dividing costs "
        "where there was no bias ({3:.2f}).",
        (("length_of_labels", "R-DPO with α = λ"), ("length_of_labels", "R-DPO with another α"),
         ("length_of_labels", "no other fix does"), ("length_of_labels", "but dividing by lengths")),
    ),
    # ---- rewards and judges
    Myth(
        "Optimizing a proxy ends in over-optimization: gold peaks, then falls.",
        "With independent Gaussian error the mean of gold given the proxy rises all the way; single draws dip, "
        "the median one by {1:.1%} of the peak. A hump comes from heavy tails, from an adversary, and from few "
        "labels: with all there are it is {5:.1%} of what it was, and a larger β only delays it. Where error opposes "
        "gold by enough, gold falls from the start.",
        (("over_optimization", "gaussian error: no draw's"), ("over_optimization", "gaussian error: but little"),
         ("over_optimization", "heavy-tailed error: E[g | p] peaks"),
         ("over_optimization", "adversarial error: gold peaks"),
         ("over_optimization", "labels: n of them, gold"), ("over_optimization", "labels: with all there are"),
         ("over_optimization", "labels: at 10 β"), ("over_optimization", "error correlated below")),
    ),
    Myth(
        "DPO cannot express several objectives.",
        "Labels of the combined reward make its optimum. Labels of either judge, mixed, do not (off by {1:.2f}), nor "
        "do policies mixed by λ where their β differ; weights λβ/Σλβ make π\\* at β = Σλβ, exactly.",
        (("whose_preferences", "judges: labels of λr"), ("whose_preferences", "judges: labels of r or s"),
         ("whose_preferences", "judges: policies mixed with"), ("whose_preferences", "judges: mixed with weights λ")),
    ),
    Myth(
        "DPO learns what the majority prefers.",
        "It elects by Borda, where all pairs are met alike. Who beats everybody is not always on top (missed in "
        "{1:.0%} of random preferences that have one), copies of a third response can change who is, and in a cycle "
        "the policy stays at the reference.",
        (("whose_preferences", "all pairs alike: DPO"), ("whose_preferences", "DPO does not always elect"),
         ("whose_preferences", "clones: with copies"), ("whose_preferences", "cycle: DPO and IPO stay")),
    ),
    Myth(
        "There is a loss that is better than DPO.",
        "For a bug, if it is told how large: rDPO for flips, R-DPO for length, exactly 0 regret; each costs regret "
        "where there is no bug. On clean labels, and on skewed pairs, DPO is exact. None knows of responses that are "
        "in no pair.",
        (("bug_by_variant", "flips: rDPO, told how many"), ("bug_by_variant", "length: R-DPO, told the bias"),
         ("bug_by_variant", "a cure costs"), ("bug_by_variant", "clean labels: DPO"),
         ("bug_by_variant", "skewed pairs: DPO ends"), ("bug_by_variant", "unseen responses")),
    ),
    Myth(
        "Data of short answers say nothing of longer ones.",
        "A matter of the class. A bigram trained on strings of a few tokens has the optimum over all strings (KL "
        "below 1e-9) where the reward is its kind; a table leaves what it has not seen at the mean of the rest.",
        (("beyond_the_data", "language: from every start"), ("beyond_the_data", "language: a reward that no"),
         ("beyond_the_data", "language: a table gives")),
    ),
    # ---- roads
    Myth(
        "DPO needs 28 GB where PPO needs 56. (7e9 parameters, weights alone.)",
        "The ratio survives training ({1:g}), since PPO trains a value model too. The gigabytes do not: with "
        "gradients, moments and a master copy, DPO holds {2:g} times its weights.",
        (("five_roads", "memory: PPO's models"), ("five_roads", "memory: and in training"),
         ("five_roads", "memory: but in training")),
    ),
    Myth(
        "PPO, GRPO and DPO find different answers.",
        "Told the same reward, and without what each publication adds, all end at π_ref e^(r/β)/Z. They differ in "
        "conditioning, in what they sample and hold, and in additions: GRPO as published ends elsewhere (KL "
        "{1:.2f}).",
        (("five_roads", "table: told r, every road"), ("five_roads", "table: GRPO as published ends elsewhere")),
    ),
    Myth(
        "DPO ignores the partition function, which must cost something.",
        "No pair of one prompt ever meets Z: r + c(x) has the same loss, gradient and π\\*. The trained policy knows "
        "differences of rewards exactly, and β log Z is what they lack.",
        (("z_cancels", "r + c(x) has the same π*"), ("z_cancels", "trained DPO, which never"),
         ("z_cancels", "what r has beyond")),
    ),
)


def main() -> None:
    held: dict[str, Claims] = {}

    def claims_of(name: str) -> Claims:
        if name not in held:
            held[name] = EXPERIMENTS[name].claims(EXPERIMENTS[name].run())
        return held[name]

    PAGE.write_text(page(claims_of), encoding="utf-8")


if __name__ == "__main__":
    main()
