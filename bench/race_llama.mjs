// llama.cpp's side of bench/race.py: holds one GGUF file and answers "decode THREADS NEW PROMPT" and "prompt THREADS TOKENS" with
// tokens per second. As llama-bench does, it feeds fixed tokens and computes the logits after each, without sampling from them; it
// works on the bare context of node-llama-cpp, so that a step costs no scheduling in JavaScript.
// "perplexity WINDOWS.json" is that of windows of token ids, each scored alone.
//   node race_llama.mjs ARTIFACTS/llama-cpp FILE.gguf
import { pathToFileURL } from "node:url";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { readFileSync } from "node:fs";

const [folder, file] = process.argv.slice(2);
const { getLlama, LlamaLogLevel } = await import(pathToFileURL(join(folder, "node_modules/node-llama-cpp/dist/index.js")));
const llama = await getLlama({ gpu: false, build: "never", logLevel: LlamaLogLevel.error, maxThreads: 0 });
if (process.env.RACE_AVX2 === "1" && /AVX512 = 1|AVX_VNNI = 1/.test(llama.systemInfo)) throw new Error(`llama.cpp was to be held to AVX2: ${llama.systemInfo}`);
const model = await llama.loadModel({ modelPath: file, useMmap: true });
const context = await model.createContext({ contextSize: 1024, batchSize: 512, sequences: 1, threads: 1 });
const bare = context._ctx, vocabulary = model.fileInfo.metadata.tokenizer.ggml.tokens?.length ?? 4096;
const token = i => (i * 7919) % vocabulary;

async function feed(tokens, at) {
    bare.initBatch(tokens.length);
    bare.addToBatch(0, at, Uint32Array.from(tokens), Uint32Array.from([tokens.length - 1]));
    await bare.decodeBatch();
}

async function measure(threads, made, prompt) {
    bare.setThreads(threads);
    if (bare.getThreads() !== threads) throw new Error(`llama.cpp took ${bare.getThreads()} threads instead of ${threads}`);
    bare.disposeSequence(0);
    let clock = performance.now();
    await feed(Array.from({ length: prompt }, (_, i) => token(i)), 0);
    const reading = prompt / (performance.now() - clock) * 1000;
    clock = performance.now();
    for (let i = 0; i < made; i++) await feed([token(prompt + i)], prompt + i);
    const writing = made / (performance.now() - clock) * 1000;
    const last = bare.getSequenceKvCacheMaxPosition(0);
    if (last !== prompt + made - 1) throw new Error(`llama.cpp stands at ${last} instead of ${prompt + made - 1}`);
    return { reading, writing };
}

async function perplexity(windows) {
    let sum = 0, count = 0;
    const sequence = context.getSequence();
    for (const window of windows) {
        await sequence.clearHistory();
        const asked = window.map((id, i) => i === window.length - 1 ? id : [id, { generateNext: { probabilities: true, options: { temperature: 0 } } }]);
        const answers = await sequence.controlledEvaluate(asked);
        for (let i = 0; i + 1 < window.length; i++, count++) sum -= Math.log(answers[i].next.probabilities.get(window[i + 1]));
    }
    return Math.exp(sum / count);
}

console.log("ready");
for await (const line of createInterface({ input: process.stdin })) {
    const [word, ...numbers] = line.split(" ");
    if (word === "perplexity") {
        console.log(String(await perplexity(JSON.parse(readFileSync(numbers[0], "utf8")))));
        continue;
    }
    const [threads, first, second] = numbers.map(Number);
    const { reading, writing } = word === "decode" ? await measure(threads, first, second) : await measure(threads, 1, first);
    console.log(String(word === "decode" ? writing : reading));
}
process.exit(0);
