"""The list of the programs of a config: what a run compiles, with what arguments, beside what.

The loops run the programs of rollout/programs.py, rollout/collector.py and training/programs.py;
this list holds the same objects with abstract arguments, in the order of a run. `msjoe plan`
compiles it, and tests compare it with what a run has called. A selector's own prompts are there at
their longest (rollout/selector_uses.py). What it leaves out: shorter lengths of prompts
(config.prompt.length_step), arms with a scorer of their own, programs of plug-ins, the tiny
world's, and single operations between programs.

What is alive beside a program, by this rule: the parameters and the training state of the phase,
CLIP, a KL term's reference; while a batch is collected the other waves with all that they hold
(prompts, patches and features of reason and answer), what the own wave holds already, and the batch
to be refilled; in an evaluation one MLLM, the samplers of all sets, and the answers of the arm
before. What a program takes as arguments counts as its arguments alone.

How often it runs, by this rule: what an update calls, as often as the training has updates, one
refill of each batch where refills are asked for; a validation at the start, after every so many
updates and at the end, of arms that need no truth, with all questions of its limit; each arm of an
evaluation scores, selects and answers, and its queries are written once for each MLLM.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from msjoe_jax.config import TRAININGS, Config
from msjoe_jax.data.embed import FRAMES_AT_ONCE
from msjoe_jax.evaluation.arms import ARMS, SETS, arm_of
from msjoe_jax.evaluation.columns import Column, columns_of
from msjoe_jax.rl.batch import RolloutBatch
from msjoe_jax.rollout.collect import RolloutConfig
from msjoe_jax.rollout.collector import join_programs
from msjoe_jax.rollout.computing import for_computing
from msjoe_jax.rollout.programs import Programs, embed_frames
from msjoe_jax.rollout.siglip import embed_siglip_frames
from msjoe_jax.rollout.system import System, state_table
from msjoe_jax.rollout.uses import EpisodeUses, Held, Pick, Tree
from msjoe_jax.runtime.machine import Machine
from msjoe_jax.runtime.mesh import with_shardings
from msjoe_jax.runtime.program import Program, Use
from msjoe_jax.training.config import TrainingRun
from msjoe_jax.training.evidence import EvidencePrograms
from msjoe_jax.training.programs import TrainingPrograms
from msjoe_jax.training.state import reference, scored, trains_vision, with_score
from msjoe_jax.training.validation import PLAIN, SCORE, WITH_TRUTH


def program_list(
    config: Config,
    system: System,
    machine: Machine,
    end_ids: tuple[int, ...] = (0, 1),
    questions: int = 0,
    budgets: tuple[int, ...] = (),
) -> list[Use]:
    """Returns every use of a program in the phases of a config, in their order.

    Args:
      config: the run's.
      system: its models.
      machine: where it runs; its devices may be described ones.
      end_ids: that end a reply; their number alone matters to what is compiled.
      questions: of difficulty, and where no limit is set of an evaluation; 0: not known.
      budgets: numbers of key frames of the evaluation; none: the config's.
    """
    return list(_Lister(config, system, machine, end_ids, questions, budgets).uses())


class _Lister:
    """Lists the uses; every method yields those of a part of a run."""

    def __init__(
        self,
        config: Config,
        system: System,
        machine: Machine,
        end_ids: tuple[int, ...],
        questions: int,
        budgets: tuple[int, ...],
    ) -> None:
        self.config, self.system, self.machine = config, system, machine
        self.questions = questions
        self.budgets = budgets or (config.frames.key,)
        programs = Programs(system, machine)
        self.episode = EpisodeUses(programs, config.episode, config.prompt, end_ids)
        self.base = machine.laid(
            {**system.abstract, "mllm": for_computing(system)}, state_table(system)
        )

    def uses(self) -> Iterator[Use]:
        config, phases = self.config, self.config.phases
        yield from self._embedding()
        if "difficulty" in phases:
            yield from self._difficulty()
        if "evidence" in phases:
            yield from self._evidence()
        trainings = [name for name in TRAININGS if name in phases]
        for name in trainings:
            yield from _Training(self, config.training_run(name)).uses()
        if "evaluate" in phases:
            sets = {name: self._other_sampler() for name in SETS if name in ("base", *phases)}
            arms = {name: arm_of(name, sets) for name in config.evaluate.arms}
            held = {f"{name} sampler": sampler for name, sampler in sets.items()}
            held["parameters"] = self.base
            columns = columns_of(arms, self.budgets)
            yield from self.evaluation("evaluate", columns, self.base, held, config.evaluate.limit)

    def _other_sampler(self) -> Tree:
        return self.machine.laid(self.system.abstract["sampler"], state_table(self.system))

    def at_once(self, limit: int) -> int:
        """Returns the questions that are evaluated together, of so many (0: all of a file)."""
        most = self.config.evaluate.batch
        return self.machine.padded(min(most, limit) if limit else most)

    def batches(self, limit: int) -> int | None:
        """Returns in how many batches so many are evaluated; None: their number is not known."""
        number = limit or self.questions
        return -(-number // self.config.evaluate.batch) if number else None

    def _embedding(self) -> Iterator[Use]:
        """Lists the image towers, which embed frames on one device before a run."""

        def whole(tree: Tree) -> Tree:
            return with_shardings(tree, jax.tree.map(lambda _: self.machine.whole, tree))

        def use(program: Program, *arguments: Tree) -> Use:
            return Use("predecode", program, tuple(map(whole, arguments)), {}, {}, times=None)

        system, n = self.system, FRAMES_AT_ONCE
        side = system.clip_config.image_size
        frames = jax.ShapeDtypeStruct((n, side, side, 3), jnp.uint8)
        yield use(embed_frames(system), system.abstract["clip"], frames)
        if siglip := system.siglip:
            shape = (n, siglip.images.max_patches, 3 * siglip.sizes.patch**2)
            patches = jax.ShapeDtypeStruct(shape, jnp.uint8)
            shapes = jax.ShapeDtypeStruct((n, 2), jnp.int32)
            yield use(embed_siglip_frames(siglip), system.abstract["siglip"], patches, shapes)

    def _difficulty(self) -> Iterator[Use]:
        size, held = self.at_once(0), {"base parameters": self.base}
        lists, times = _one_each(size), self.batches(0)
        picks = [Pick("uniform", self.config.frames.key)]
        selection = self.episode.selection("difficulty", lists, self.base, held, picks)
        answering = self.episode.answering(
            "difficulty",
            lists,
            self.base["mllm"],
            held,
            samples=self.config.difficulty.samples,
            temperature=self.config.rollout.answer_temperature,
        )
        for use in (*selection, answering):
            yield dataclasses.replace(use, times=times)

    def _evidence(self) -> Iterator[Use]:
        """Lists the training of the sampler on evidence."""
        run, episode, base = self.config.evidence_run, self.episode, self.base
        own = EvidencePrograms(run, self.system, self.machine, self.config.frames.key)
        if not run.steps:
            return
        rollout = _one_each(self.machine.padded(run.questions))
        beside: Held = {name: x for name, x in base.items() if name not in ("mllm", "sampler")}
        if run.rollout.queries == "policy":
            beside["mllm"] = base["mllm"]
        yield Use("evidence", own.init, (own.start,), {}, beside)
        held = {**beside, "state": own.state}
        uses: list[Use] = []
        if run.rollout.queries == "policy":
            temperature = run.rollout.query_temperature
            uses.append(
                episode.reasoning("evidence", rollout, base["mllm"], held, temperature=temperature)
            )
        uses += episode.selection("evidence", rollout, base, held, [], trains=True)
        batch = episode.batch(rollout)
        labels: Any = (
            jax.ShapeDtypeStruct(batch.frame_mask.shape, jnp.bool_),
            jax.ShapeDtypeStruct(batch.weight.shape, jnp.float32),
        )
        arrays = (*episode.rows(labels), batch.similarity, batch.query_mask, batch.frame_mask)
        read = (batch.embeddings, batch.query_embeddings)
        uses.append(Use("evidence", own.step, (own.state, *arrays, *read), {}, held))
        for use in uses:
            yield dataclasses.replace(use, per_update=1, times=run.steps)

    def evaluation(
        self,
        phase: str,
        columns: Sequence[Column],
        params: Held,
        held: Held,
        limit: int,
        counted: Sequence[Column] | None = None,
        repeats: int = 1,
    ) -> Iterator[Use]:
        """Lists an evaluation of arms at budgets, greedy and with one list of queries a question.

        Args:
          phase: of the run.
          columns: whatever may run.
          params: with which it runs.
          held: what is alive.
          limit: questions of it; 0: all of a file.
          counted: those that surely run; None: all.
          repeats: how often it is made.
        """
        counted, batches = columns if counted is None else counted, self.batches(limit)
        arms = [column.arm for column in counted]
        asked = {(arm.mllm, arm.own_previews) for arm in arms if arm.queries == "policy"}
        for use, number in self._evaluation(phase, columns, counted, params, held, limit):
            each = len(asked) if use.step == "reason" else number
            times = None if batches is None else batches * each * repeats
            yield dataclasses.replace(use, times=times)

    def _evaluation(
        self,
        phase: str,
        columns: Sequence[Column],
        counted: Sequence[Column],
        params: Held,
        held: Held,
        limit: int,
    ) -> Iterator[tuple[Use, int]]:
        """Lists the uses, and how often a batch of questions takes each."""
        rollout, episode, config = _one_each(self.at_once(limit)), self.episode, self.config
        picks = {c: Pick(c.arm.selector, self._frames(c), c.draws, c.arm.sampled) for c in columns}
        shown: dict[tuple[int, bool], int] = {}  # frames, more than candidates: how often
        for column, pick in picks.items():
            chosen = episode.choosing(pick)
            kind = chosen.width, chosen.several_sizes and chosen.width > config.frames.candidates
            shown[kind] = shown.get(kind, 0) + (column in counted) * column.draws
        answers = {kind: episode.showing(*kind) for kind in shown}
        largest = answers[max(answers)]
        before = largest.batch(rollout).answers, largest.patches(rollout)[1]
        held = {**held, "answers of the arm before": before}
        mllm, number = params["mllm"], len(counted)
        if any(column.arm.queries == "policy" for column in columns):
            yield episode.reasoning(phase, rollout, mllm, held, temperature=0.0), 1
        distinct = list(dict.fromkeys(picks.values()))
        for use in episode.selection(phase, rollout, params, held, distinct):
            yield use, number
        for pick in dict.fromkeys(pick._replace(draws=1) for pick in distinct):
            for use in episode.asking(phase, rollout, mllm, held, pick):
                yield use, 1
        for kind, one in answers.items():
            step = "answer" if one is episode else f"answer, {kind[0]} frames"
            use = one.answering(phase, rollout, mllm, held, samples=1, temperature=0.0, step=step)
            yield use, shown[kind]

    def _frames(self, column: Column) -> int:
        frames = self.config.frames
        return min(column.budget or frames.key, frames.candidates)


def _one_each(questions: int) -> RolloutConfig:
    """Returns the sizes of an evaluation: one list of queries and one selection a question."""
    return RolloutConfig(questions=questions, query_rollouts=1, frame_draws=1)


class _Training:
    """Lists the uses of a training."""

    def __init__(self, lister: _Lister, run: TrainingRun) -> None:
        self.lister, self.run = lister, run
        self.own = TrainingPrograms(run, lister.system, lister.machine)
        self.encode_in_step = run.training.train_mllm and trains_vision(run, lister.system)

    def _merged_mllm(self) -> Tree:
        """Returns the MLLM's parameters as they are validated."""
        mllm, table = self.own.state["mllm"], state_table(self.lister.system)
        if "lora" not in mllm:
            return mllm
        return self.lister.machine.laid(jax.eval_shape(self.own.merge.function, mllm), table)

    def uses(self) -> Iterator[Use]:
        lister, run, own, base = self.lister, self.run, self.own, self.lister.base
        ref = lister.machine.laid(reference(run, lister.system), state_table(lister.system))
        beside = {"CLIP": base["clip"], "reference": ref}
        if lister.system.siglip:
            beside["SigLIP"] = base["siglip"]
        yield Use(run.name, own.init, (own.start["mllm"], own.start["sampler"]), {}, beside)
        held = {**beside, "state": own.state}
        if not run.training.steps:
            return
        if run.loop.validate_every:
            yield from self._validation(held)
        batch = self._batch(run.rollout.questions)
        collecting = {**held, "batch to refill": batch} if run.rollout.refill else held
        for use in (*self._collection(collecting), *self._changes(held, ref, batch)):
            often = self._often(use.program.name)
            yield dataclasses.replace(use, per_update=often, times=often * run.training.steps)

    def _often(self, program: str) -> float:
        """Returns how often an update runs a program; a refill draws one more batch."""
        rollout = self.run.rollout
        batches = 1 + bool(rollout.refill)
        of_the_batch: dict[str, float] = {
            "replace_rows": 1,
            "scoring": 1,
            "draw_scoring": 1,
            "join": batches,
        }
        of_the_batch |= {"joint_step": rollout.updates, "credit": 1 / self.run.loop.rollouts_every}
        return of_the_batch.get(program, batches * rollout.waves)

    def _changes(self, held: Held, ref: Held, batch: RolloutBatch) -> Iterator[Use]:
        """Lists what is done with a whole batch."""
        run, lister = self.run, self.lister
        if run.rollout.refill:
            B = run.rollout.questions
            places = jax.ShapeDtypeStruct((B,), jnp.int32, sharding=lister.machine.whole)
            count = jax.ShapeDtypeStruct((), jnp.int32, sharding=lister.machine.whole)
            replace = join_programs(lister.machine)[1]
            extra = self._batch(B)
            yield Use(run.name, replace, (batch, extra, places, places, count), {}, held)
        yield from self._update(held, ref, batch)

    def _batch(self, questions: int) -> RolloutBatch:
        rollout = dataclasses.replace(self.run.rollout, questions=questions)
        return self.lister.episode.batch(rollout, self.encode_in_step)

    def _collection(self, held: Held) -> Iterator[Use]:
        lister, run, state = self.lister, self.run, self.own.state
        episode = lister.episode
        waves = run.rollout.waves
        rollout = dataclasses.replace(
            run.rollout, questions=run.rollout.questions // waves, waves=1
        )
        parts = [(episode.batch(rollout), episode.patches(rollout)) for _ in range(waves - 1)]
        alone, held = held, {**held, "the other waves": parts}
        temperature = run.rollout.query_temperature
        yield episode.reasoning(run.name, rollout, state["mllm"], held, temperature=temperature)
        reasoned = {"reason": (episode.batch(rollout).queries, episode.patches(rollout)[0])}
        params = {**lister.base, "sampler": state["sampler"]}
        pick = Pick(rollout.selector, lister.config.frames.key, rollout.frame_draws, True)
        yield from episode.selection(
            run.name, rollout, params, {**held, **reasoned}, [pick], trains=True
        )
        yield from episode.asking(run.name, rollout, state["mllm"], {**held, **reasoned}, pick)
        without: Any = None
        selected = {"select": episode.batch(rollout)._replace(queries=without, answers=without)}
        yield episode.answering(
            run.name,
            rollout,
            state["mllm"],
            {**held, **reasoned, **selected},
            samples=1,
            temperature=run.rollout.answer_temperature,
        )
        if waves > 1:
            arrays = [self._batch(rollout.questions) for _ in range(waves)]
            yield Use(run.name, join_programs(lister.machine)[0], (arrays,), {}, alone)

    def _update(self, held: Held, ref: Held, batch: RolloutBatch) -> Iterator[Use]:
        run, own = self.run, self.own
        yield Use(run.name, own.credit, (batch,), {}, held)
        params = {"ref": ref, "old": own.state}
        for kind, models in scored(run).items():
            for model in models:
                scoring = own.scoring if model == "mllm" else own.draw_scoring
                yield Use(run.name, scoring, (params[kind][model], batch), {}, held)
                batch = self.lister.episode.rows(with_score(batch, kind, model))
        yield Use(run.name, own.joint_step, (own.state, batch), {}, held)

    def _validation(self, held: Held) -> Iterator[Use]:
        lister, run = self.lister, self.run
        rollout = run.rollout
        own = dataclasses.replace(ARMS[SCORE], queries=rollout.queries, selector=rollout.selector)
        arms = {name: own if name == SCORE else ARMS[name] for name in (*PLAIN, *WITH_TRUTH)}
        columns = columns_of(arms, [lister.config.frames.key])
        trained = {"mllm": self._merged_mllm(), "sampler": self.own.state["sampler"]}
        params = {**lister.base, **trained}
        steps, every = run.training.steps, run.loop.validate_every
        times = 1 + -(-steps // every)
        if "lora" in self.own.state["mllm"]:
            merge, state = self.own.merge, self.own.state
            yield Use(run.name, merge, (state["mllm"],), {}, held, times=times)
        yield from lister.evaluation(
            f"{run.name} validation",
            columns,
            params,
            held,
            run.loop.validation_limit,
            counted=[column for column in columns if column.name in PLAIN],
            repeats=times,
        )
