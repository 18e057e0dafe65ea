"""How the property-based tests change files, and how many they try."""

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

HYPOTHESIS = settings(
    max_examples=60,
    deadline=None,  # the machine may be busy; hangs are the bombs' test's and the fuzzer's
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
EDITS = st.lists(
    st.tuples(
        st.sampled_from(["flip", "cut", "copy", "insert", "drop", "extend"]),
        st.floats(0, 1),
        st.integers(1, 40),
        st.binary(min_size=1, max_size=12),
    ),
    min_size=1,
    max_size=4,
)


def edited(content, edits):
    """Return `content` after a few edits, each of a kind, a place, a length and some bytes."""
    for kind, place, length, added in edits:
        at = int(place * len(content))
        end = at + length
        if kind == "flip":
            content = content[:at] + added[:1] + content[at + 1 :]
        elif kind == "cut":
            content = content[:at] + content[end:]
        elif kind == "copy":
            content = content[:end] + content[at:]
        elif kind == "insert":
            content = content[:at] + added + content[at:]
        elif kind == "drop":
            content = content[:at]
        else:
            content += added
    return content
