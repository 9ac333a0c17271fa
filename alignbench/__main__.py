"""`python -m alignbench`."""

from alignbench.terminal.endings import one_sentence

if __name__ == "__main__":
    with one_sentence():  # Ctrl-C may come while libraries load
        from alignbench.cli import main
    main()
