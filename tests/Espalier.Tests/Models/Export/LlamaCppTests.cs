using System.Text.Json.Nodes;
using Espalier.Checkpoints.Gguf;
using Espalier.Data;
using Espalier.Models;
using Espalier.Models.Export;
using static TorchSharp.torch;

namespace Espalier.Tests.Models.Export;

/// <summary>llama.cpp loads what we export and says what we say.</summary>
public sealed class LlamaCppTests
{
    private const int Made = 24;
    private const string Prompt = "It is a truth universally acknowledged, that a";

    [Fact]
    public void The_default_model_goes_on_as_ours_in_every_type() =>
        Continues(Path.Combine(TestPaths.Repository, "assets", "default-model"), Prompt, GgufType.F32, GgufType.F16, GgufType.BF16, GgufType.Q8_0, GgufType.Q4_0);

    [Fact]
    public void The_imdb_llama_goes_on_as_ours() =>
        Continues(TestPaths.RequireShared("hub/models--espalier--imdb-llama-2.8m/snapshots/local"), "This film was one of the best that I have", GgufType.F32, GgufType.Q8_0);

    private static void Continues(string folder, string prompt, params GgufType[] types)
    {
        using var output = new TemporaryFolder();
        foreach (GgufType type in types)
        {
            GgufExport.Run(folder, type, output[$"{type}.gguf"]);
        }

        IReadOnlyList<LlamaCpp.Answer> answers = LlamaCpp.Run([.. types.Select(t => new LlamaCpp.Job(output[$"{t}.gguf"], prompt, null, Made))]);
        Tokenizer tokenizer = Tokenizer.Load(folder);
        int[] ids = [.. tokenizer.Encode(prompt)];
        using LanguageModel model = LanguageModel.Load(folder);
        int[] ours = [.. new TextGenerator(model).Generate(ids, new GenerationOptions { MaxNewTokens = Made, EosTokenIds = [] })];
        foreach ((GgufType type, LlamaCpp.Answer answer) in types.Zip(answers))
        {
            answer.Error.ShouldBeNull($"{type}");
            answer.Prompt.ShouldBe(ids, $"{type}: tokens of the prompt");
            if (type is GgufType.F32 or GgufType.F16)
            {
                answer.Made.ShouldBe(ours, $"{type}");
                answer.Text.ShouldBe(tokenizer.Decode(ours), $"{type}");
            }

            // Where rounding chose another token, the distributions are compared on llama.cpp's own text.
            Divergence(model, ids, answer).ShouldBeLessThan(type switch { GgufType.F32 or GgufType.F16 or GgufType.BF16 => 1e-4, GgufType.Q8_0 => 5e-3, _ => 0.3 }, $"{type}");
        }
    }

    [Fact]
    public void A_tokeniser_of_pieces_cuts_texts_alike_there()
    {
        using var output = new TemporaryFolder();
        TinyModels.Write(output.Path, TinyModels.Config("llama", [("hidden_size", 32), ("head_dim", 8), ("vocab_size", 300), ("max_position_embeddings", 64)]));
        string[] pieces = ["<unk>", "<s>", "</s>", .. Enumerable.Range(0, 256).Select(b => $"<0x{b:X2}>"), "▁", "a", "b", "c", "ab", "▁ab", "bc", "▁a", "▁abc"];
        // Every pair that makes a piece, as in files that were converted from SentencePiece.
        string[][] merges = [["a", "b"], ["▁", "ab"], ["▁a", "b"], ["b", "c"], ["▁", "a"], ["▁ab", "c"], ["▁a", "bc"]];
        JsonNode tokenizer = JsonNode.Parse("""
            {"added_tokens":[{"id":0,"content":"<unk>","special":true},{"id":1,"content":"<s>","special":true},{"id":2,"content":"</s>","special":true}],
             "normalizer":{"type":"Sequence","normalizers":[{"type":"Prepend","prepend":"▁"},{"type":"Replace","pattern":{"String":" "},"content":"▁"}]},
             "decoder":{"type":"Sequence","decoders":[{"type":"Replace","pattern":{"String":"▁"},"content":" "},{"type":"ByteFallback"},{"type":"Fuse"},{"type":"Strip","content":" ","start":1,"stop":0}]},
             "model":{"type":"BPE","unk_token":"<unk>","fuse_unk":true,"byte_fallback":true}}
            """)!;
        tokenizer["model"]!["vocab"] = new JsonObject(pieces.Select((p, i) => KeyValuePair.Create(p, (JsonNode?)i)));
        tokenizer["model"]!["merges"] = new JsonArray([.. merges.Select(m => (JsonNode)$"{m[0]} {m[1]}")]);
        File.WriteAllText(output["tokenizer.json"], tokenizer.ToJsonString());
        GgufExport.Run(output.Path, GgufType.F32, output["m.gguf"]);

        string[] texts = ["abc ab c", "aabb ccab é", "a", "cab  abcabc"];
        Tokenizer ours = Tokenizer.Load(output.Path);
        IReadOnlyList<LlamaCpp.Answer> answers = LlamaCpp.Run([.. texts.Select(t => new LlamaCpp.Job(output["m.gguf"], t, null, 1))]);
        foreach ((string text, LlamaCpp.Answer answer) in texts.Zip(answers))
        {
            answer.Error.ShouldBeNull(text);
            answer.Prompt.ShouldBe(ours.Encode(text, addSpecialTokens: false), text);
        }
    }

    [Fact]
    public void Every_family_computes_the_same_there()
    {
        using var output = new TemporaryFolder();
        (string Name, ModelConfig Config)[] models = [.. Models()];
        foreach ((string name, ModelConfig config) in models)
        {
            TinyModelFolder(output[name], config);
            GgufExport.Run(output[name], GgufType.F32, output[$"{name}.gguf"]);
        }

        int[] ids = [5, 60, 31, 7, 200, 150, 9, 88, 12, 271];
        IReadOnlyList<LlamaCpp.Answer> answers = LlamaCpp.Run([.. models.Select(m => new LlamaCpp.Job(output[$"{m.Name}.gguf"], null, ids, 3))]);
        foreach (((string name, _), LlamaCpp.Answer answer) in models.Zip(answers))
        {
            answer.Error.ShouldBeNull(name);
            using LanguageModel model = LanguageModel.Load(output[name]);
            Divergence(model, ids, answer).ShouldBeLessThan(2e-4, name);
        }
    }

    /// <summary>Families, biases, grouped queries, tied and separate heads, rotary scalings and uneven blocks.</summary>
    private static IEnumerable<(string Name, ModelConfig Config)> Models()
    {
        (string, JsonNode?)[] sizes = [("hidden_size", 32), ("intermediate_size", 64), ("head_dim", 8), ("vocab_size", 300), ("max_position_embeddings", 64)];
        yield return ("llama", TinyModels.Config("llama", [.. sizes, ("tie_word_embeddings", true)]));
        yield return ("llama-biases", TinyModels.Config("llama", [.. sizes, ("attention_bias", true), ("mlp_bias", true)]));
        yield return ("llama-scaled", TinyModels.Config("llama", [.. sizes, ("rope_scaling", new JsonObject { ["rope_type"] = "llama3", ["factor"] = 8.0, ["low_freq_factor"] = 1.0, ["high_freq_factor"] = 4.0, ["original_max_position_embeddings"] = 16 })]));
        yield return ("llama-linear", TinyModels.Config("llama", [.. sizes, ("rope_scaling", new JsonObject { ["rope_type"] = "linear", ["factor"] = 2.0 })]));
        yield return ("llama-wide-heads", TinyModels.Config("llama", [.. sizes[..2], ("head_dim", 16), .. sizes[3..]]));
        yield return ("llama-uneven", TinyModels.Config("llama", [.. sizes, ("block_shapes", new JsonArray(
            new JsonObject { ["num_attention_heads"] = 4, ["num_key_value_heads"] = 2, ["intermediate_size"] = 64 },
            new JsonObject { ["num_attention_heads"] = 2, ["num_key_value_heads"] = 1, ["intermediate_size"] = 40 }))]));
        yield return ("mistral", TinyModels.Config("mistral", sizes));
        yield return ("qwen2", TinyModels.Config("qwen2", sizes));
        yield return ("qwen3", TinyModels.Config("qwen3", sizes));
        yield return ("gpt2", TinyModels.Config("gpt2", ("n_embd", 32), ("n_inner", 64), ("vocab_size", 300), ("n_positions", 64)));
        (string, JsonNode?)[] neox = [("hidden_size", 32), ("intermediate_size", 64), ("vocab_size", 300), ("max_position_embeddings", 64), ("rotary_pct", 0.5), ("hidden_act", "gelu_new")];
        yield return ("neox", TinyModels.Config("gpt_neox", neox));
        yield return ("neox-sequential-tied", TinyModels.Config("gpt_neox", [.. neox, ("use_parallel_residual", false), ("tie_word_embeddings", true)]));
    }

    private static void TinyModelFolder(string folder, ModelConfig config)
    {
        Directory.CreateDirectory(folder);
        TinyModels.Write(folder, config);
        string assets = Path.Combine(TestPaths.Repository, "assets", "default-model");
        JsonNode tokenizer = JsonNode.Parse(File.ReadAllText(Path.Combine(assets, "tokenizer.json")))!;
        // The first tokens of the default model's tokeniser, which are the bytes and the earliest merges.
        var vocabulary = (JsonObject)tokenizer["model"]!["vocab"]!;
        foreach (string token in vocabulary.Where(t => (int)t.Value! >= config.VocabSize).Select(t => t.Key).ToArray())
        {
            vocabulary.Remove(token);
        }

        File.WriteAllText(Path.Combine(folder, "tokenizer.json"), tokenizer.ToJsonString());
        File.Copy(Path.Combine(assets, "tokenizer_config.json"), Path.Combine(folder, "tokenizer_config.json"));
    }

    /// <summary>The mean divergence of llama.cpp's next-token distributions from ours on the text that it made.</summary>
    private static double Divergence(LanguageModel model, int[] prompt, LlamaCpp.Answer answer)
    {
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        long[] text = [.. prompt, .. answer.Made!.SkipLast(1)];
        Tensor logits = model.Logits(tensor(text).unsqueeze(0))[0];
        double sum = 0;
        for (int i = 0; i < answer.Made!.Length; i++)
        {
            Tensor ours = logits[prompt.Length - 1 + i].log_softmax(-1).to(ScalarType.Float64);
            answer.Logs![i].Length.ShouldBe(model.Config.VocabSize);
            Tensor theirs = tensor(answer.Logs[i]).clamp_min(-80); // a probability too small for a float is 0 there
            sum += (ours.exp() * (ours - theirs)).sum().item<double>();
        }

        return sum / answer.Made.Length;
    }
}
