"""What the rows of the made tables say, by the names of their figures; ``pages.py`` makes the tables."""

from __future__ import annotations

PEOPLE = {
    "agreement": "agreement with the hidden taste on 200 held-out pairs",
    "utility_personal": "gain of the profile as served",
    "utility_length": "gain of its length weight alone",
    "utility_stranger": "gain of a stranger's profile",
    "questions": "questions asked",
    "kl": "KL, nats a token",
}
SPEEDS = {
    "personal_over_plain.110m": "a personal reward ÷ none, 110 M parameters",
    "personal_over_plain.smollm2": "a personal reward ÷ none, SmolLM2",
    "personal_over_plain.tiny": "a personal reward ÷ none, `tiny`",
    "distinct_over_same.110m": "32 people ÷ 32 requests of one person",
    "attached_over_plain.110m": "head attached at strength 0 ÷ nothing attached",
    "blocks4_time_over_plain.smollm2": "time a token in blocks, the best of four ÷ plain, SmolLM2",
    "plain_over_generate.110m": "the engine ÷ transformers' `generate` on the same batch",
    "ragged_over_generate.110m": "the same, replies of 32 to 512 tokens, both by oneDNN",
}
COSTS = {
    "args_over_naive.110m.512": "ARGS with 10 candidates and a prompt of 512 ÷ the same with a cache copied ten times",
    "expert_time_over_sum.110m": "time of a step with expert and anti-expert ÷ the sum of the three models' own",
    "head_write_us": "writing a person's weights to their row, µs",
    "commit_to_steer_ms": "from an answer to the first reply it steers, ms",
    "commit_to_steer_other_process_p99_ms": "the same from another process, 99th percentile, ms",
    "bytes_10000_heads": "memory of 10,000 resident people, bytes",
}
PRIORS = {
    "value": "as served: nothing, few tastes or any",
    "gaussian_prior": "any alone: a Gaussian",
    "kinds_known": "all eighty-four tastes known beforehand",
}
ALARMS = {
    "trials.alarms": "trials of equal arms that ever tell them apart, looked at daily for thirty days",
    "trials.alarms_fixed": "the same by an interval that is made for a single look",
}
METHODS = {
    "greedy.successor.k10.w32": "successor head as served, greedy",
    "sampled.successor.k10.w32": "successor head, β = 32, k = 10",
    "sampled.args_prefixes.k10.w32": "ARGS, reward trained on prefixes, w = 32",
    "sampled.args_replies.k10.w8": "ARGS, reward trained on whole replies, w = 8",
    "sampled.args_prefixes.k10.w1.5": "ARGS as published, w = 1.5, on prefixes",
    "sampled.args_replies.k10.w1.5": "ARGS as published, w = 1.5, on whole replies",
    "sampled.best_of.n2": "best of 2, chosen by the profile",
    "sampled.best_of.n8": "best of 8",
    "sampled.best_of.n11": "best of 11: the compute of ARGS",
    "sampled.in_context": "the profile in words, as a system message",
}
LEARNT = {
    "jester.population": "Jester: everybody's model is right about pairs of jokes far apart, %",
    "jester.gain_10": "the same after 10 chosen questions, points more",
    "jester.gain_20": "after 20",
    "alpaca84.share_5": "84 simulated tastes: share of the way from chance to the taste itself, after 5 answers",
    "alpaca84.share_10": "after 10",
    "alpaca84.share_20": "after 20",
    "gate.ukp": "UKPConvArg1: a person's own model as served, points over everybody's",
    "gate.prism": "PRISM",
    "gate.pandalm": "PandaLM",
    "ece_max": "calibration error, the worst of all curves",
    "stop.coverage": 'right about fresh pairs where the questions ended at "80 % sure"',
    "stop.mean_questions": "and questions asked",
    "fit_ms": "one fit of twenty answers as served, 32 axes, ms",
    "acquire_ms": "the next of 1,000 questions, one answer ahead, ms",
    "acquire_d_optimal_ms": "one of 10,000 pairs by D-optimality, ms",
    "watch_ms": "one look for a change of taste, 100 answers, 32 axes, ms",
    "bulk_users_per_s": "people fitted a second in bulk as served, ten answers, 32 axes",
    "bulk_cov_users_per_s": "the same with covariances",
    "basis_fit_s": "axes from 24,000 answers of 400 people, s",
}

PROSE = {
    "tilt": "the tilt, as served",
    "tilt.half": "at half strength",
    "tilt.double": "at double strength",
    "length": "its length weight alone, as large",
    "stranger": "a stranger's profile",
    "tilt.picks": "after picks: the tilt",
    "length.picks": "after picks: the length weight alone",
    "stranger.picks": "after picks: a stranger's profile",
    "mean": "everybody's mean profile",
    "words": "the profile in words, as a system message",
    "words_and_tilt": "words and tilt",
    "words.picks": "after picks: the profile in words",
    "words_and_tilt.picks": "after picks: words and tilt",
    "blocks.2.16": "blocks of 16 tokens, the best of 2",
    "blocks.4.16": "blocks of 16 tokens, the best of 4",
    "blocks.8.16": "the best of 8",
    "blocks.4.8": "blocks of 8, the best of 4",
    "blocks.4.32": "blocks of 32, the best of 4",
    "length.blocks.4.16": "blocks of 16 by the length weight alone",
    "stranger.blocks.4.16": "blocks of 16 by a stranger's profile",
    "blocks.4.16.picks": "after picks: blocks of 16, the best of 4",
    "length.blocks.4.16.picks": "after picks: blocks by the length weight alone",
    "stranger.blocks.4.16.picks": "after picks: blocks by a stranger's profile",
    "best_of.4": "best of 4 by the profile",
    "best_of.4.picks": "after picks: best of 4",
    "best_of.8": "best of 8",
    "tilt_best_of.4": "best of 4 tilted ones",
    "oracle_tilt": "oracle: the tilt by what the axes can say of the taste",
    "oracle_blocks.4.16": "oracle: blocks of 16, the best of 4",
    "oracle_best_of.8": "oracle: best of 8",
    "oracle_chooser.8": "oracle: the person chooses among 8",
}
TALKED = {"plain": "the model's own"} | {
    name: PROSE[name] for name in ("tilt", "words", "words_and_tilt", "tilt.picks", "words_and_tilt.picks")
}
DIFFERENCES = {
    "smollm2.person_over_length.tilt": "the tilt over its length weight alone",
    "smollm2.person_over_stranger.tilt": "the tilt over a stranger's profile",
    "smollm2.person_over_words.tilt": "the tilt over the profile in words",
    "smollm2.person_over_length.tilt.picks": "after picks: the tilt over its length weight alone",
    "smollm2.person_over_stranger.tilt.picks": "after picks: the tilt over a stranger's profile",
    "smollm2.person_over_words.tilt.picks": "after picks: the tilt over the profile in words",
    "smollm2.person_over_length.blocks.4.16.picks": "after picks: blocks of 16 over the length weight alone",
    "smollm2.person_over_length.blocks.4.16": "blocks of 16, the best of 4, over the length weight alone",
    "smollm2.person_over_stranger.blocks.4.16": "blocks over a stranger's profile",
    "smollm2.person_over_words.blocks.4.16": "blocks over the profile in words",
    "smollm2.person_over_stranger.blocks.4.16.picks": "after picks: blocks over a stranger's profile",
    "smollm2.person_over_words.blocks.4.16.picks": "after picks: blocks over the profile in words",
}

WISHES = {
    "wishes.made_up.precision": "of the wishes taken from made-up sentences, the share that is right",
    "wishes.made_up.recall": "of the wishes in them, the share that is taken",
    "wishes.precision": "the first share with 250 sentences of real dialogues among them",
    "wishes.false_alarms_per_million": "wishes taken wrongly from a million sentences of real dialogues",
}
KNOWLEDGE = {
    "smollm2.knowledge_kept": "bits of the answers' tokens in the short list, tilted ÷ plain",
    "smollm2.knowledge.listed": "share of the answers' tokens that the short list holds",
    "smollm2.knowledge.drawn.base": "share that can be drawn as served, plain",
    "smollm2.knowledge.drawn.tilt": "and tilted",
    "smollm2.knowledge.ratio.uncut": "bits of an answer ÷ plain: the tilt, if it cut no tokens off",
    "smollm2.knowledge.ratio.alpha.0.25": "the expert at α = 0.25",
    "smollm2.knowledge.ratio.alpha.0.5": "at 0.5",
    "smollm2.knowledge.ratio.alpha.0.75": "at 0.75",
    "smollm2.knowledge.ratio.alpha.1": "at 1, which is direct tuning",
    "smollm2.knowledge.ratio.alpha.1.5": "at 1.5",
    "smollm2.knowledge.right.base": "share of greedy replies that hold an answer, plain",
    "smollm2.knowledge.right.tilt": "tilted",
    "smollm2.knowledge.right.alpha.0.5": "the expert at α = 0.5",
    "smollm2.knowledge.right.direct": "directly tuned",
    "smollm2.knowledge.right.drawn": "share of replies drawn as served that hold one, plain",
    "smollm2.knowledge.right.blocks.4.8": "blocks of 8, the best of 4",
}
CALM = {
    "answering": "50 answers to questions",
    "wrong": "the same, a quarter of them wrong",
    "left": "the same, always the left side",
    "using": "10 answers to questions, then 40 thumbs",
    "using_wrong": "the same, with the errors of a quarter",
    "using_left": "the same, always left, and thumbs at random",
}
CHANGED = {
    **{
        f"{change}.{at}": f"{what} after {at} answers"
        for change, what in (("reversal", "turned round"), ("another", "drawn anew"))
        for at in (10, 20, 30)
    },
    "using_reversal.20": "turned round after 10 answers and 10 thumbs; then thumbs",
    "using_another.20": "drawn anew after these; then thumbs",
}
TAPS = {
    "pairs": "pairs",
    "graded": "pairs, with “much better”",
    "picks": "picks of up to four, with the worst",
}
GRADED = {
    "plain": "sides alone",
    "graded": "graded, the basis from a log without grades",
    "graded_log": "graded, from a log with them",
    "own_cuts": "the same, each person with a cut of their own",
}
SERVED = {
    "tokens_over_engine.32.tiny": "tokens a second of 32 users who stream ÷ the engine's own, `tiny`",
    "tokens_over_engine.32.smollm2": "the same, SmolLM2",
    "ttft_p99_over_unloaded.8": "time to the first text, 99th percentile: 8 users at once ÷ one alone",
    "refusal_p99_ms": "time to a refusal at ten times the load, 99th percentile, ms",
    "refusal_other_statuses": "answers at that load with another status than 200, 429 or 503",
    "refusal_grown_mb": "memory that it costs in a minute, MB",
    "page.onboarding_s": "all questions on the page by a script that clicks at once, s",
    "soak.errors": "failed requests in ten minutes of chats, answers and erasures, killed once a minute",
    "soak.mb_per_min": "memory that the server grows in a minute of it, MB",
}
INSIDE_VLLM = {
    "vllm_heads_over_plain.16": "vLLM: 16 requests of a person each ÷ 16 of nobody",
    "engine_over_vllm_cpu.16": "our engine ÷ vLLM on a CPU, 16 plain requests",
    "engine_over_vllm_cpu.1": "the same, one request",
    "vllm_reload_p99_ms": "from another process's commit to two tokens written under it, 99th percentile, ms",
}
SCALE = {
    "local_fit_s": "a million people fitted, s",
    "local_peak_mb": "memory of all processes at most, MB",
    "local_peak_growth": "more of it for four times as many people, %",
    "ray_over_local": "the same work by Ray, which runs already ÷ by processes that are started for it",
    "postgres_heads_s": "a million profiles into Postgres, s",
    "postgres_read_ms": "one of them read by `Store.profile`, ms",
    "replies_per_s": "replies measured a second on the named axes, by one core",
    "wheel_mb": "the wheel, MB",
}
