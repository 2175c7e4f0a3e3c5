"""What a meter that answers in order, late or not at all, can still say."""

from hypothesis import given
from hypothesis import strategies as st

from hal.index.modbus_map import Question
from hal.index.modbus_owed import OWED_MAX, Owed

PROBE, NAME, INDEX = Question(3, 9, 2), Question(3, 7, 6), Question(3, 0, 8)
PROBES = (PROBE, Question(4, 9, 1))
OTHER = Question(4, 0, 8)
ANY = (*PROBES, NAME, INDEX, OTHER)


def asked(*questions: Question) -> Owed:
    owed = Owed()
    for one in questions:
        owed = owed.with_asked(one)
    return owed


def test_an_answer_leaves_nothing_older_to_come() -> None:
    owed = asked(INDEX, NAME, PROBE).without_answered(is_error=False)
    assert owed == Owed()


def test_an_answer_that_fits_two_questions_may_be_the_older_ones() -> None:
    owed = asked(PROBE, INDEX, PROBE).without_answered(is_error=False)
    assert owed.questions == (INDEX, PROBE)
    assert not owed.is_at_most(PROBES)
    owed = owed.with_asked(PROBE).without_answered(is_error=False)
    assert owed.questions == (PROBE,)
    assert owed.is_at_most(PROBES)


def test_the_other_probe_tells_in_one_answer() -> None:
    owed = asked(PROBE, INDEX)
    other = owed.next_of(PROBES)
    assert other == PROBES[1]
    assert owed.with_asked(other).without_answered(is_error=False) == Owed()
    assert owed.with_asked(other).next_of(PROBES) == PROBE


def test_an_error_may_be_any_of_its_function() -> None:
    assert asked(OTHER, INDEX, PROBE).without_answered(is_error=True).questions == (PROBE,)


def test_what_is_owed_is_bounded() -> None:
    owed = asked(*[PROBE] * 10 * OWED_MAX, INDEX, *[PROBE] * (OWED_MAX - 1))
    assert len(owed.questions) == OWED_MAX
    assert not owed.is_at_most(PROBES)


class InOrder:
    """A meter that owes answers, and loses some; where each of them belongs is known here."""

    def __init__(self) -> None:
        self.owes: list[tuple[int, Question, bool]] = []
        self.asked = 0

    def ask(self, question: Question, fate: str, given: int) -> tuple[int, bool] | None:
        """The question whose answer is taken, and whether it is an error; None: none comes.

        Args:
            question: whose answer is waited for.
            fate: what becomes of its own answer: "told", "error" or "lost".
            given: how many of the answers that are owed come before the question is given up.
        """
        if fate != "lost":
            self.owes.append((self.asked, question, fate == "error"))
        self.asked += 1
        said, self.owes = self.owes[:given], self.owes[given:]
        for number, one, is_error in said:
            if one.function == question.function and (is_error or one.count == question.count):
                return number, is_error
        return None


FATES = st.sampled_from(["told", "told", "told", "error", "lost"])
STEPS = st.lists(st.tuples(st.sampled_from(ANY), FATES, st.integers(0, 4)), max_size=OWED_MAX - 2)


@given(STEPS)
def test_once_only_probes_are_owed_every_other_question_gets_its_own_answer(
    steps: list[tuple[Question, str, int]],
) -> None:
    meter, owed = InOrder(), Owed()
    for question, fate, given_up in steps:
        # As the bus asks: anything else only once nothing but probes can still come.
        one = question if owed.is_at_most(PROBES) else owed.next_of(PROBES)
        owed = owed.with_asked(one)
        taken = meter.ask(one, fate, given_up)
        if taken is None:
            continue
        number, is_error = taken
        owed = owed.without_answered(is_error=is_error)
        is_own = number == meter.asked - 1
        assert is_own or is_error or one in PROBES
        assert is_own or owed.questions, "an answer is sure, and it is another's"
        left = [each for _, each, _ in meter.owes]
        assert len(left) <= len(owed.questions)


@given(STEPS)
def test_a_meter_that_answers_again_is_soon_asked_for_its_index(
    steps: list[tuple[Question, str, int]],
) -> None:
    owed = asked(INDEX)
    for question, fate, _ in steps:
        owed = owed.with_asked(question)
        if fate != "lost":
            owed = owed.without_answered(is_error=fate == "error")
    for _ in range(len(owed.questions) + 1):
        if owed.is_at_most(PROBES):
            break
        owed = owed.with_asked(owed.next_of(PROBES)).without_answered(is_error=False)
    assert owed.is_at_most(PROBES)
