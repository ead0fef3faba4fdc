"""Entry points of the processes that train, evaluate, predict and test an artefact."""
