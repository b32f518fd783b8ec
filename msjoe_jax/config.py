"""Every field that a config has, with its default. `configs/*.py` start from `base()`.

Unknown fields are refused by name (`ml_collections` locks the dict), and `--config.a.b=value`
overrides any of them.
"""

from ml_collections import ConfigDict


def base() -> ConfigDict:
    """The fields and the defaults that hold for every run."""
    c = ConfigDict()
    c.seed = 0
    # Stages in order; each is skipped when its result is already in the workdir. Of: world (build
    # the tiny world's data), warm_up (its CLIP and MLLM, supervised), difficulty, pretrain (stage
    # I), joint (stage II), evaluate.
    c.stages = ("difficulty", "pretrain", "joint", "evaluate")

    # Where the data lies: record folders (see predecode) and question files. With the stage
    # `world` these are set by it.
    c.data = ConfigDict()
    c.data.train_records = ""
    c.data.train_questions = ""
    c.data.validation_records = ""
    c.data.validation_questions = ""
    c.data.heldout_records = ""
    c.data.heldout_questions = ""

    c.world = ConfigDict()
    c.world.seed = 0
    c.world.num_train = 2048
    c.world.num_validation = 500
    c.world.num_heldout = 1000
    c.warm_up = ConfigDict()
    c.warm_up.clip_steps = 0
    c.warm_up.mllm_steps = 0

    # Models. `checkpoint`: a folder that `main`, `convert` or `export --format=orbax` wrote ("" =
    # from the stage warm_up). `size`: tiny or a published one; `tokenizer`: a tokenizer.json ("" =
    # the checkpoint's, of both).
    c.mllm = ConfigDict()
    c.mllm.size = "qwen2.5-vl-7b"
    c.mllm.checkpoint = ""
    c.mllm.tokenizer = ""
    c.mllm.dtype = "bfloat16"
    c.mllm.param_dtype = "float32"
    c.mllm.remat = True
    # Attention over prompts and patches: xla (`attention_chunk` queries at a time), splash (TPU),
    # cudnn (GPU, 16-bit floats); auto is the kernel of the machine where it takes the inputs.
    c.mllm.attention = "auto"
    c.mllm.attention_chunk = 512
    c.mllm.log_prob_chunk = 4096  # ids of the vocabulary at a time
    # Score a question's prompts one after the other: less memory, one more forward.
    c.mllm.score_one_by_one = True
    # Leaves whose path matches this pattern train where the stage trains the MLLM; the others have
    # no gradient and no moments ("" = all train; the vision tower then runs inside the joint step).
    c.mllm.trainable = "^language/"
    # LoRA: factors of this rank on the matrices whose path matches train instead, scaled by
    # alpha / rank (0 = none). They are merged into the weights at the end of the stage.
    c.mllm.lora_rank = 0
    c.mllm.lora_alpha = 32.0
    c.mllm.lora_targets = "^language/layers/"
    c.clip = ConfigDict()
    c.clip.size = "vit-l-14"
    c.clip.checkpoint = ""
    c.clip.tokenizer = ""
    c.sampler = ConfigDict()
    c.sampler.width = 128
    c.sampler.depth = 6
    c.sampler.kernel = 5
    c.sampler.skip_scale = 1.5
    c.sampler.checkpoint = ""  # "" = fresh weights

    # Frames: T candidates at most, N_init previews, K key frames; patches bound their resolution
    # (4 patches of 14×14 make one visual token).
    c.frames = ConfigDict()
    c.frames.candidates = 3600
    c.frames.preview = 16
    c.frames.key = 32
    c.frames.preview_patches = 128
    c.frames.key_patches = 1024
    # image: each frame on its own. video: consecutive frames fused in pairs, all in one video whose
    # M-RoPE times are uniform (as the processor states them) or the key frames' true ones.
    c.frames.mode = "image"
    c.frames.time = "uniform"

    # Prompts and replies. Lengths are in tokens: a longer prompt drops its question (counted),
    # a longer reply is cut off and invalid.
    c.prompt = ConfigDict()
    c.prompt.system = "You are a helpful assistant."
    c.prompt.query_instruction = (
        "The frames above are a sparse preview of a long video. To answer the question, other "
        "frames will be searched by text. Write up to {max_queries} short descriptions of what "
        "such a frame would show, each inside <query> </query>, and nothing else."
    )
    c.prompt.answer_instruction = (
        "Answer from the frames above with the letter of the one right option inside "
        "<answer> </answer>, and nothing else."
    )
    c.prompt.think_instruction = "Reason first, inside <think> </think>."
    c.prompt.think = False
    c.prompt.max_queries = 4
    # Compiled lengths of each prompt: a batch takes the shortest of this many even steps up to the
    # limits below that holds its longest prompt, and a program compiles once for each.
    c.prompt.length_buckets = 1
    c.prompt.query_prompt_tokens = 1024
    c.prompt.answer_prompt_tokens = 8704
    c.prompt.query_tokens = 256
    c.prompt.answer_tokens = 64

    # One rollout batch: questions, query rollouts of each (G1), frame draws of each of those (G2).
    c.rollout = ConfigDict()
    c.rollout.questions = 32
    c.rollout.query_rollouts = 4
    c.rollout.frame_draws = 2
    # Sampling temperatures; log-probs in the loss are of the same distributions.
    c.rollout.query_temperature = 1.0
    c.rollout.answer_temperature = 1.0
    # Stage 3 in training: sample (the sampler's draw), or the fixed selectors of the control arms:
    # uniform, topk, topk_smooth (each with one draw a query rollout).
    c.rollout.selector = "sample"
    # Updates on each rollout batch; from the second on the ratio to the sampling policy is clipped.
    c.rollout.updates = 1
    # Rollout batches at most that are drawn to replace questions whose answers were all right or
    # all wrong, which teach nothing (DAPO's dynamic sampling; 0 = off).
    c.rollout.refill = 0
    # One more answer a question, from uniform frames: logs (and for sampler_advantage =
    # counterfactual: subtracts) what the chosen frames gain over them.
    c.rollout.counterfactual = False
    # Parts of a batch whose host work (parsing, JPEG decoding) overlaps the others' device work.
    c.rollout.waves = 1
    # What searches: policy (stage 1's queries) or question (the bare question).
    c.rollout.queries = "policy"

    # The objective (SPEC §3, §6); field meanings: rl/objective.py, StepConfig.
    c.objective = ConfigDict()
    c.objective.micro_batches = 1
    c.objective.credit = "routed"
    c.objective.advantage = "nested"
    c.objective.advantage_std = "group"
    c.objective.likelihood = "plackett_luce"
    c.objective.rewards = ConfigDict({"accuracy": 0.8, "format": 0.1, "info": 0.1})
    c.objective.routes = ConfigDict()
    c.objective.info_kind = "ratio"
    c.objective.info_threshold = 10.0
    c.objective.ratio = "token"
    c.objective.clip_low = 0.2
    c.objective.clip_high = 0.28
    c.objective.aggregation = "token-mean"
    c.objective.kl_coef = 0.0
    c.objective.kl_kind = "k3"
    c.objective.overlong = "none"
    c.objective.overlong_buffer = 0
    c.objective.overlong_penalty = 1.0
    c.objective.mask_silent = False
    c.objective.query_entropy = 0.0
    c.objective.frame_entropy = 0.02

    for name, mllm, sampler, advantage in (
        ("pretrain", False, True, "difficulty"),
        ("joint", True, True, "relative"),
    ):
        c[name] = ConfigDict()
        c[name].steps = 0
        c[name].train_mllm = mllm
        c[name].train_sampler = sampler
        c[name].sampler_advantage = advantage
        # Advantages times [c (1 − c)]^−this, c the pass rate: 0 = all questions alike, 1 = hard
        # and easy ones as the paper's stage I weighs them.
        c[name].difficulty_weight = 0.0
        # Questions drawn with weight exp(−(c − target)² / 2 width²), the target pass rate going
        # from start to end over the stage (width 0 = off: every question once an epoch).
        c[name].curriculum = ConfigDict({"start": 0.7, "end": 0.3, "width": 0.0})

    # Pass rates c (SPEC §3): answers drawn per question from uniform frames.
    c.difficulty = ConfigDict()
    c.difficulty.samples = 8
    # Smoothing: c drawn towards the data's mean as by this many more samples; correction: c of a
    # guesser becomes 0.
    c.difficulty.smoothing = 0.0
    c.difficulty.chance_corrected = False

    c.optimizer = ConfigDict()
    c.optimizer.mllm_lr = 1e-6
    c.optimizer.sampler_lr = 5e-4
    c.optimizer.warmup_steps = 10
    c.optimizer.mllm_decay = 0.01
    c.optimizer.sampler_decay = 0.01
    c.optimizer.mllm_clip = 1.0
    c.optimizer.sampler_clip = 1.0
    # A run stops after this many updates were left out because a gradient was not finite.
    c.optimizer.max_skipped = 10

    # Mesh axes; one may be −1 (all remaining devices).
    c.mesh = ConfigDict()
    c.mesh.data = 1
    c.mesh.fsdp = -1
    c.mesh.tensor = 1

    c.log_every = 1
    c.media_every = 50
    c.rollouts_every = 1  # updates between rows of rollouts.jsonl, from which draws are replayed
    c.checkpoint_every = 50
    c.keep_checkpoints = 2

    c.evaluate = ConfigDict()
    c.evaluate.selectors = ("uniform", "joint")
    c.evaluate.batch = 50
    c.evaluate.limit = 0  # questions; 0 = all
    c.evaluate.smooth = 5  # frames under the smoothing of top-k (smoothed)
    return c
