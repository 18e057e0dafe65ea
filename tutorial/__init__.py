"""The tutorial: its page, its notebooks, and how they are run."""
