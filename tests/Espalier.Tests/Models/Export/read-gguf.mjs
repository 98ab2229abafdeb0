// Reads one JSON line {"folder", "jobs": [{"file", "text"?, "ids"?, "count"}]} and answers one JSON line: for each job the ids of
// its text, the ids that follow greedily, and the log-probabilities of all tokens after the prompt and after every greedy token.
import { pathToFileURL } from "node:url";
import { join } from "node:path";

let input = "";
for await (const piece of process.stdin) input += piece;
const { folder, jobs } = JSON.parse(input);
const { getLlama, LlamaLogLevel } = await import(pathToFileURL(join(folder, "node_modules/node-llama-cpp/dist/index.js")));
const llama = await getLlama({ gpu: false, build: "never", logLevel: LlamaLogLevel.error, maxThreads: 1 });
const answers = [];
for (const { file, text, ids, count } of jobs) {
    try {
        const model = await llama.loadModel({ modelPath: file });
        const prompt = ids ?? model.tokenize(text);
        const context = await model.createContext({ contextSize: prompt.length + count + 8, flashAttention: false });
        const sequence = context.getSequence();
        const made = [], logs = [];
        let next = [...prompt];
        for (let i = 0; i < count; i++) {
            const steps = next.map((id, j) => j === next.length - 1 ? [id, { generateNext: { probabilities: true, options: { temperature: 0 } } }] : id);
            const result = await sequence.controlledEvaluate(steps);
            const { probabilities } = result[next.length - 1].next;
            const [best] = probabilities.keys();
            logs.push([...probabilities.entries()].sort((a, b) => a[0] - b[0]).map(([, p]) => Math.log(p)));
            made.push(best);
            next = [best];
        }
        answers.push({ prompt: [...prompt], made, logs, text: model.detokenize(made) });
        await context.dispose();
        await model.dispose();
    } catch (fault) {
        answers.push({ error: String(fault?.message ?? fault) });
    }
}
process.stdout.write(JSON.stringify(answers) + "\n", () => process.exit(0)); // a pipe takes it in pieces
