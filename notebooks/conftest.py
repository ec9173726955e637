"""nbval on a busy machine: it waits for the last output of a cell longer than its own five seconds."""


def pytest_collection_modifyitems(items):
    for item in items:
        if hasattr(item, "output_timeout"):
            item.output_timeout = 120
