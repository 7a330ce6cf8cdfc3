"""The files that take minutes begin first: of several at once none is then left to run alone at the end."""

LONG = (
    "test_snakefile.py",
    "test_cli.py",
    "test_campaign.py",
    "test_train.py",
    "test_accelerator.py",
    "test_built_pages.py",
)


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))
