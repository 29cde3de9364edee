"""Prints versions and devices, for bug reports and run logs."""

import argparse

EXAMPLE = """example:
  python tools/print_env.py
"""


def main() -> None:
    """Print one ``name: value`` line each; problems with dependencies first."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args()

    from thinktwice.environment import collect_environment, find_problems

    for problem in find_problems():
        print(f'! {problem.message}')
    environment = collect_environment()
    width = max(map(len, environment))
    for name, value in environment.items():
        print(f'{name:<{width}}  {value}')


if __name__ == '__main__':
    main()
