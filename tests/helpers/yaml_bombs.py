"""YAML of a few lines whose aliases expand to any size."""


def laughs(levels: int, width: int = 9) -> str:
    """Lists of lists of lists, `width` ** `levels` words in all."""
    lines = ["l0: &l0 [lol]"] + [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * width)}]" for n in range(1, levels + 1)]
    return "\n".join(lines)


def merges(levels: int, width: int = 9) -> str:
    """Mappings merged into mappings; PyYAML copies them while it reads."""
    lines = ["l0: &l0 {a: 1}"]
    lines += [f"l{n}: &l{n} {{<<: [{', '.join([f'*l{n - 1}'] * width)}], k{n}: 1}}" for n in range(1, levels + 1)]
    return "\n".join(lines)
