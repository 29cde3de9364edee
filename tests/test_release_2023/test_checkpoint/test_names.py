import pytest

from thinktwice.release_2023.checkpoint.names import NameMap


@pytest.fixture
def names():
    return NameMap([('layers.*.head.bn', 'decoder.*.norm'), ('layers', 'decoder'), ('stem', 'stem')])


@pytest.mark.parametrize(
    ('official', 'ours'),
    [
        ('layers.3.head.bn.weight', 'decoder.3.norm.weight'),
        ('layers.3.head.conv.bias', 'decoder.3.head.conv.bias'),
        ('stem', 'stem'),
    ],
)
def test_names_translate_both_ways(names, official, ours):
    assert names.to_ours(official) == ours
    assert names.to_official(ours) == official


@pytest.mark.parametrize('name', ['stemm.weight', 'layer.0', 'x.stem'])
def test_rules_match_whole_segments_only(names, name):
    assert names.to_ours(name) is None


def test_rule_with_unequal_wildcards_is_refused():
    with pytest.raises(ValueError, match='equally often'):
        NameMap([('a.*', 'b')])
