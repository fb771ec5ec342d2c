import pytest

from sympformer.data.source import Source
from sympformer.data.text import Text
from sympformer.errors import InputError


def text(path, documents):
    path.write_text("\n<|endoftext|>\n".join(documents))
    return Text(path)


def test_a_validation_text_is_kept_apart(tmp_path):
    train, valid = text(tmp_path / "a.txt", ["1", "2"]), text(tmp_path / "b.txt", ["3"])
    source = Source(train, valid, valid_fraction=0.5)
    assert list(source.documents()) == [("1", False), ("2", False), ("3", True)]
    assert list(source.training_documents()) == ["1", "2"]


def test_a_share_of_the_documents_is_held_out(tmp_path):
    stories = [f"story {i}" for i in range(2000)]
    source = Source(text(tmp_path / "a.txt", stories), None, 0.1)
    assert [document.text for document in source.documents()] == stories
    held_out = {document.text for document in source.documents() if document.held_out}
    assert 150 < len(held_out) < 250
    assert set(source.training_documents()) == set(stories) - held_out

    shuffled = Source(text(tmp_path / "b.txt", stories[::-1] * 2), None, 0.1)
    assert {d.text for d in shuffled.documents() if d.held_out} == held_out
    assert held_out.isdisjoint(shuffled.training_documents())

    more = Source(source.train, None, 0.2)
    assert held_out < {d.text for d in more.documents() if d.held_out}


def test_made_from_names_all_that_matters(tmp_path):
    one, two = text(tmp_path / "a.txt", ["1", "2"]), text(tmp_path / "b.txt", ["3"])
    sources = [
        Source(one, None, 0.1),
        Source(one, None, 0.2),
        Source(two, None, 0.1),
        Source(one, two, 0.1),
        Source(two, one, 0.1),
        Source(Text(one.path, separator=""), None, 0.1),
    ]
    assert len({str(source.made_from()) for source in sources}) == len(sources)
    assert Source(one, two, 0.3).made_from() == Source(one, two, 0.1).made_from()


def test_options_without_effect_are_refused(tmp_path):
    plain = text(tmp_path / "a.txt", ["1"]).path
    (records := tmp_path / "b.jsonl").write_text('{"body": "2"}')
    both = str(tmp_path / "[ab].*")
    assert Source.of(str(records), None, 0.1, field="body").train.takes == {"field"}
    assert Source.of(both, None, 0.1, "", "body").train.takes == {"field", "separator"}
    assert Source.of(str(plain), str(records), 0.1, "", "body").valid is not None
    with pytest.raises(InputError, match=r"field = 'body' is about JSON lines.*a\.txt has none"):
        Source.of(str(plain), None, 0.1, field="body")
    with pytest.raises(InputError, match=r"separator = '' is about plain text.*b\.jsonl has none"):
        Source.of(str(records), None, 0.1, separator="")


@pytest.mark.parametrize("fraction", [-1, 0, 1, 1.5, float("nan")])
def test_bad_fractions(tmp_path, fraction):
    with pytest.raises(InputError, match="between 0 and 1"):
        Source(text(tmp_path / "a.txt", ["1"]), None, fraction)


def test_splits_without_documents(tmp_path):
    one, two = text(tmp_path / "a.txt", ["1"]), text(tmp_path / "b.txt", ["2"])
    split, given = Source(one, None, 0.1), Source(one, two, 0.1)
    split.require_documents(1, 1)
    given.require_documents(1, 1)
    for source, train, valid, message in (
        (split, 0, 0, r"a\.txt holds no text"),
        (split, 3, 0, r"the 3 document\(s\).* none for validation"),
        (split, 0, 1, "none for training"),
        (given, 0, 1, r"a\.txt holds no text"),
        (given, 1, 0, r"b\.txt holds no text"),
    ):
        with pytest.raises(InputError, match=message):
            source.require_documents(train, valid)
