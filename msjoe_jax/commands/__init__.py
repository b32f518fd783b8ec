"""The commands of `msjoe`: a name, one line for `msjoe --help`, and the module that runs it."""

COMMANDS: dict[str, tuple[str, str]] = {
    "init": ("prepare a training on your own videos", "msjoe_jax.commands.init"),
    "import": ("read questions of any form, and find their videos", "msjoe_jax.commands.import_"),
    "predecode": ("decode videos into a record folder", "msjoe_jax.commands.predecode"),
    "difficulty": (
        "measure how hard questions are, filter and split them",
        "msjoe_jax.commands.difficulty",
    ),
    "inspect": ("say what records, questions, a model or a run hold", "msjoe_jax.commands.inspect"),
    "evaluate": ("judge a trained model on held-out questions", "msjoe_jax.commands.evaluate"),
    "score": ("score a file of predictions by a benchmark's rules", "msjoe_jax.commands.score"),
    "report": ("write a page of an evaluation or of a run", "msjoe_jax.commands.report"),
    "compare": ("say which of two evaluations is better, and where", "msjoe_jax.commands.compare"),
    "frames": ("write the pictures of a video at given times", "msjoe_jax.commands.frames"),
    "ask": ("answer one question about one video", "msjoe_jax.commands.ask"),
    "generate": ("complete a prompt with images and videos", "msjoe_jax.commands.generate"),
    "launch": ("run a training and mind its processes", "msjoe_jax.commands.launch"),
    "convert": ("read published weights", "msjoe_jax.commands.convert"),
    "export": ("write a trained model for others to load", "msjoe_jax.commands.export"),
    "plan": ("compile a run for a TPU slice that need not be there", "msjoe_jax.commands.plan"),
    "doctor": ("test a slice with a config before its first run", "msjoe_jax.commands.doctor"),
    "replay": ("repeat the frame draws of a logged rollout", "msjoe_jax.commands.replay"),
    "fields": ("print every config field, as in docs/config.md", "msjoe_jax.commands.fields"),
    "pictures": ("draw the pictures of the README", "msjoe_jax.commands.pictures"),
}
