"""YAML as this workbook reads it: safe, without aliases, and without a key given twice."""

from collections import Counter

import yaml


class _Loader(yaml.SafeLoader):
    """Refuses aliases, which can grow without bound, and a key given twice, of which plain YAML keeps the last."""

    def compose_node(self, parent, index):
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it holds an alias (*name)")
        return super().compose_node(parent, index)

    def construct_mapping(self, node, deep=False):
        keys = Counter(str(key.value) for key, _ in node.value)
        twice = sorted(key for key, count in keys.items() if count > 1)
        if twice:
            raise yaml.YAMLError(f"given twice: {', '.join(twice)}")
        return super().construct_mapping(node, deep)


def load(text):
    """What the text holds. Raises yaml.YAMLError, and RecursionError for thousands of levels."""
    return yaml.load(text, _Loader)
