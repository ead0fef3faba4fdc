"""Changes that make a run of the sample scene last seconds: a tiny network, a few chips, nothing asked of the model."""

TINY = [
    "model.kwargs={base_channels: 4, depth: 2}",
    "data.chip_size=64",
    "data.chips_per_epoch=8",
    "data.batch_size=4",
    "trainer.epochs=2",
    "trainer.device=cpu",
    "trainer.mixed_precision=false",
    "early_stopping=null",
    "gate.floors={}",
    "gate.first=any",
]
