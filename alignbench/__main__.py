"""`python -m alignbench`."""

import sys

from alignbench.terminal.endings import REQUEUE, one_sentence
from alignbench.terminal.signals import handled

if __name__ == "__main__":
    with handled():  # a signal may come while libraries load
        with one_sentence(requeues=REQUEUE in sys.argv):
            from alignbench.cli import main
        main()
