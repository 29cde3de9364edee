"""Print the versions and devices that a bug report needs; problems with dependencies come first.

Example:
    python tools/print_env.py
"""

from thinktwice.command_line import Parser


def main() -> None:
    """Print the same table that a run writes to its log."""
    Parser(__doc__).parse_args()

    from thinktwice.environment import collect_environment, find_problems

    for problem in find_problems():
        print(f'! {problem.message}')

    from thinktwice.tables import format_table

    print(format_table(('name', 'value'), collect_environment().items()))


if __name__ == '__main__':
    main()
