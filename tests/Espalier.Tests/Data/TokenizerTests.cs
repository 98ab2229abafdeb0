using System.Text;
using System.Text.Json;
using CsCheck;
using Espalier.Data;
using Espalier.Runtime;

namespace Espalier.Tests.Data;

public sealed class TokenizerTests
{
    private const string ImdbLlama = "hub/models--espalier--imdb-llama-2.8m/snapshots/local";

    private static readonly Gen<string> anyText = Gen.OneOf(
        Gen.String,
        Gen.String[Gen.Char["  \t\n\r'sdl09é—…你🙂\u00a0"]],
        Gen.Int[0, 0x10FFFF].Where(c => c is < 0xD800 or > 0xDFFF).Select(char.ConvertFromUtf32).Array[0, 40].Select(string.Concat));

    [Fact]
    public void Ids_are_those_of_the_reference_tokeniser()
    {
        Tokenizer tokenizer = Tokenizer.Load(TestPaths.RequireShared(ImdbLlama));
        using JsonDocument cases = JsonDocument.Parse(File.ReadAllText(TestPaths.RequireShared("parity/tokenizers/imdb-llama-2.8m.json")));
        cases.RootElement.GetArrayLength().ShouldBeGreaterThan(3);
        foreach (JsonElement item in cases.RootElement.EnumerateArray())
        {
            string text = item.GetProperty("text").GetString()!;
            tokenizer.Encode(text).ShouldBe(item.GetProperty("ids").EnumerateArray().Select(i => i.GetInt32()), text);
        }

        (tokenizer.BeginId, tokenizer.EndId, tokenizer.VocabularySize).ShouldBe((1, 2, 4096));
        tokenizer.IdOf("Ġt").ShouldNotBeNull();
        tokenizer.TokenOf(tokenizer.IdOf("Ġt")!.Value).ShouldBe("Ġt");
    }

    [Fact]
    public void Any_text_comes_back_whole_and_the_streamed_text_is_the_same()
    {
        Tokenizer tokenizer = Tokenizer.Load(TestPaths.RequireShared(ImdbLlama));
        // A special token in the text is one, and decoding leaves those out: random text holds "<s>" now and then.
        anyText.Where(text => !text.Contains("<s>", StringComparison.Ordinal) && !text.Contains("</s>", StringComparison.Ordinal) && !text.Contains("<pad>", StringComparison.Ordinal) && !text.Contains("<unk>", StringComparison.Ordinal)).Sample(text =>
        {
            IReadOnlyList<int> ids = tokenizer.Encode(text);
            // A lone surrogate has no UTF-8 and is read as U+FFFD.
            string expected = Encoding.UTF8.GetString(Encoding.UTF8.GetBytes(text));
            TokenDecoder decoder = tokenizer.StartDecoding();
            string streamed = string.Concat(ids.Select(decoder.Push)) + decoder.Flush();
            return tokenizer.Decode(ids) == expected && streamed == expected;
        }, iter: 3000);
    }

    /// <summary>An independent implementation of byte-level BPE; its pattern sees UTF-16 units, so text stays in the basic plane.</summary>
    [Fact]
    public void Ids_agree_with_another_implementation_on_text_of_the_basic_plane()
    {
        string folder = TestPaths.RequireShared(ImdbLlama);
        Tokenizer tokenizer = Tokenizer.Load(folder);
        using JsonDocument document = JsonDocument.Parse(File.ReadAllText(Path.Combine(folder, "tokenizer.json")));
        JsonElement model = document.RootElement.GetProperty("model");
        var other = Microsoft.ML.Tokenizers.BpeTokenizer.Create(new Microsoft.ML.Tokenizers.BpeOptions(
            model.GetProperty("vocab").EnumerateObject().Select(p => KeyValuePair.Create(p.Name, p.Value.GetInt32())))
        {
            Merges = model.GetProperty("merges").EnumerateArray().Select(m => m.GetString()!),
            ByteLevel = true,
            PreTokenizer = new Microsoft.ML.Tokenizers.RegexPreTokenizer(new System.Text.RegularExpressions.Regex(SplitStep.Gpt2Pattern), null),
        });
        Gen.String[Gen.OneOf(Gen.Char["   etaoinshrdlu'ns.,!?\n"], Gen.Char[' ', '\u07ff']), 0, 120]
            .Sample(text => tokenizer.Encode(text).SequenceEqual(other.EncodeToIds(text)), iter: 3000);
    }

    [Fact]
    public void Half_a_character_is_held_back_until_its_end_comes()
    {
        Tokenizer tokenizer = Tokenizer.Load(TestPaths.RequireShared(ImdbLlama));
        int[] bytes = [.. Encoding.UTF8.GetBytes("🙂").Select(b => tokenizer.IdOf(ByteAlphabet.ToCharacter(b).ToString())!.Value)];
        TokenDecoder decoder = tokenizer.StartDecoding();
        bytes[..3].Select(decoder.Push).ShouldBe(["", "", ""]);
        decoder.Push(bytes[3]).ShouldBe("🙂");
        decoder.Push(bytes[0]).ShouldBe("");
        decoder.Flush().ShouldBe("\uFFFD");
    }

    [Fact]
    public void Special_tokens_in_the_text_are_recognised_and_left_out_of_the_decoded_text()
    {
        Tokenizer tokenizer = Tokenizer.Load(TestPaths.RequireShared(ImdbLlama));
        IReadOnlyList<int> ids = tokenizer.Encode("<s>good</s> bad");
        ids[0].ShouldBe(1);
        ids.ShouldContain(2);
        tokenizer.Decode(ids).ShouldBe("good bad");
        tokenizer.Decode(ids, skipSpecialTokens: false).ShouldBe("<s>good</s> bad");
    }

    [Fact]
    public void An_id_outside_the_vocabulary_is_named()
    {
        Tokenizer tokenizer = Tokenizer.Load(TestPaths.RequireShared(ImdbLlama));
        Should.Throw<EspalierException>(() => tokenizer.Decode([5000])).Message.ShouldContain("5000");
    }

    [Fact]
    public void Letters_and_digits_outside_the_basic_plane_are_split_as_letters_and_digits()
    {
        var step = new SplitStep(SplitStep.Gpt2Pattern, SplitBehavior.Isolated, invert: false);
        List<Piece> pieces = [];
        string text = "𝒜b 🙂🙂 𝟙2!";
        step.Apply(new Piece(text, 0, text.Length, true), pieces);
        pieces.Select(p => p.Span.ToString()).ShouldBe(["𝒜b", " 🙂🙂", " 𝟙2", "!"]);
    }

    [Fact]
    public void Llama_3_takes_a_known_word_whole_and_begins_a_text()
    {
        using var folder = new TemporaryFolder();
        File.WriteAllText(folder["tokenizer.json"], """
            {"added_tokens":[{"id":9,"content":"<|begin|>","special":true,"normalized":false}],
             "normalizer":null,
             "pre_tokenizer":{"type":"Sequence","pretokenizers":[
               {"type":"Split","pattern":{"Regex":"(?i:'s|'t)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}|\\s+"},"behavior":"Isolated","invert":false},
               {"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":false}]},
             "post_processor":{"type":"Sequence","processors":[{"type":"ByteLevel"},{"type":"TemplateProcessing",
               "single":[{"SpecialToken":{"id":"<|begin|>","type_id":0}},{"Sequence":{"id":"A","type_id":0}}],
               "special_tokens":{"<|begin|>":{"id":"<|begin|>","ids":[9],"tokens":["<|begin|>"]}}}]},
             "decoder":{"type":"ByteLevel"},
             "model":{"type":"BPE","ignore_merges":true,"vocab":{"a":0,"b":1,"c":2,"ab":3,"abc":4,"1":5,"11":6,"111":7,"Ġ":8},"merges":[["a","b"],["1","1"]]}}
            """);
        Tokenizer tokenizer = Tokenizer.Load(folder.Path);
        tokenizer.Encode("abc").ShouldBe([9, 4]);
        tokenizer.Encode("abcabc", addSpecialTokens: false).ShouldBe([3, 2, 3, 2]);
        tokenizer.Encode("1111", addSpecialTokens: false).ShouldBe([7, 5]);
        tokenizer.Encode("").ShouldBeEmpty();
        tokenizer.Decode(tokenizer.Encode("abc ab")).ShouldBe("abcab".Insert(3, " "));
    }

    [Fact]
    public void Llama_2_writes_spaces_as_pieces_and_falls_back_to_bytes()
    {
        using var folder = new TemporaryFolder();
        File.WriteAllText(folder["tokenizer.json"], LlamaTwo());
        Tokenizer tokenizer = Tokenizer.Load(folder.Path);
        tokenizer.Encode("hi hi").ShouldBe([1, tokenizer.IdOf("▁hi")!.Value, tokenizer.IdOf("▁hi")!.Value]);
        tokenizer.Encode("é", addSpecialTokens: false).ShouldBe([tokenizer.IdOf("▁")!.Value, 3 + 0xC3, 3 + 0xA9]);
        foreach (string text in new[] { "hi hi", "  hi\n🙂 é", "\t" })
        {
            tokenizer.Decode(tokenizer.Encode(text)).ShouldBe(text);
        }
    }

    [Fact]
    public void Gpt_2_files_are_read_and_the_beginning_is_added_where_the_configuration_says_so()
    {
        using var folder = new TemporaryFolder();
        File.WriteAllText(folder["vocab.json"], """{"</s>":0,"a":1,"b":2,"ab":3,"Ġ":4,"Ġab":5}""");
        File.WriteAllText(folder["merges.txt"], "#version: 0.2\na b\nĠ ab\n");
        File.WriteAllText(folder["tokenizer_config.json"], """{"add_bos_token":true,"bos_token":{"content":"</s>"},"eos_token":"</s>","tokenizer_class":"GPT2Tokenizer"}""");
        Tokenizer tokenizer = Tokenizer.Load(folder.Path);
        tokenizer.Encode("ab ab").ShouldBe([0, 3, 5]);
        tokenizer.BeginId.ShouldBe(0);
        tokenizer.Decode([0, 3, 5]).ShouldBe("ab ab");
    }

    [Fact]
    public void A_sentencepiece_model_is_read_and_text_comes_back()
    {
        using var folder = new TemporaryFolder();
        File.WriteAllBytes(folder["tokenizer.model"], SentencePieceBytes());
        Tokenizer tokenizer = Tokenizer.Load(folder.Path);
        (tokenizer.BeginId, tokenizer.EndId, tokenizer.VocabularySize).ShouldBe((1, 2, 264));
        tokenizer.Encode("hi hi").ShouldBe([1, tokenizer.IdOf("▁hi")!.Value, tokenizer.IdOf("▁hi")!.Value]);
        foreach (string text in new[] { "hi hi", " hi\n🙂 é" })
        {
            tokenizer.Decode(tokenizer.Encode(text)).ShouldBe(text);
        }
    }

    [Theory]
    [InlineData("vocab.txt", "[UNK]", "vocab.txt")]
    [InlineData("tokenizer.json", "{\"model\":{\"type\":\"WordPiece\",\"vocab\":{}}}", "WordPiece")]
    [InlineData("tokenizer.json", "{\"model\":\n{\"type\":", "line 2")]
    [InlineData("tokenizer.json", "[]", "supported are")]
    [InlineData("tokenizer.json", "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":\"x\"},\"merges\":[]}}", "\"a\"")]
    [InlineData("tokenizer.json", "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"ab\"]}}", "Merge 0")]
    [InlineData("tokenizer.json", "{\"pre_tokenizer\":{\"type\":\"BertPreTokenizer\"},\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[]}}", "BertPreTokenizer")]
    [InlineData("tokenizer.json", "{\"added_tokens\":[{\"content\":\"x\"}],\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[]}}", "no tokeniser")]
    [InlineData("tokenizer.model", "not protobuf", "SentencePiece")]
    [InlineData("weights.bin", "", "no tokeniser files")]
    public void What_cannot_be_read_is_said_in_a_sentence(string file, string content, string says)
    {
        using var folder = new TemporaryFolder();
        File.WriteAllText(folder[file], content);
        Should.Throw<EspalierException>(() => Tokenizer.Load(folder.Path)).Message.ShouldContain(says);
    }

    [Fact]
    public void A_missing_folder_is_said_in_a_sentence() =>
        Should.Throw<EspalierException>(() => Tokenizer.Load("/no/such/model")).Message.ShouldContain("/no/such/model");

    /// <summary>A BPE model in SentencePiece's protobuf: pieces (1), trainer (2) with byte fallback (35), normaliser (3).</summary>
    internal static byte[] SentencePieceBytes()
    {
        using var stream = new MemoryStream();
        using (var output = new Google.Protobuf.CodedOutputStream(stream, leaveOpen: true))
        {
            IEnumerable<(string, int, float)> pieces = [("<unk>", 2, 0), ("<s>", 3, 0), ("</s>", 3, 0),
                .. Enumerable.Range(0, 256).Select(b => ($"<0x{b:X2}>", 6, 0f)), ("hi", 1, -1), ("▁hi", 1, -2), ("▁", 1, -3), ("h", 1, -4), ("i", 1, -5)];
            foreach (var (piece, type, score) in pieces)
            {
                Message(output, 1, m => { m.WriteTag(10); m.WriteString(piece); m.WriteTag(21); m.WriteFloat(score); m.WriteTag(24); m.WriteInt32(type); });
            }

            Message(output, 2, m => { m.WriteTag(3 << 3); m.WriteInt32(2); m.WriteTag(35 << 3); m.WriteBool(true); });
            Message(output, 3, m => { m.WriteTag(10); m.WriteString("identity"); m.WriteTag(24); m.WriteBool(true); m.WriteTag(32); m.WriteBool(false); m.WriteTag(40); m.WriteBool(true); });
        }

        return stream.ToArray();

        static void Message(Google.Protobuf.CodedOutputStream output, uint field, Action<Google.Protobuf.CodedOutputStream> write)
        {
            using var inner = new MemoryStream();
            using (var message = new Google.Protobuf.CodedOutputStream(inner, leaveOpen: true))
            {
                write(message);
            }

            output.WriteTag((field << 3) | 2);
            output.WriteBytes(Google.Protobuf.ByteString.CopyFrom(inner.ToArray()));
        }
    }

    internal static string LlamaTwo()
    {
        var vocabulary = new Dictionary<string, int> { ["<unk>"] = 0, ["<s>"] = 1, ["</s>"] = 2 };
        foreach (string token in Enumerable.Range(0, 256).Select(b => $"<0x{b:X2}>").Concat(["▁", "h", "i", "hi", "▁hi"]))
        {
            vocabulary[token] = vocabulary.Count;
        }

        string tokens = JsonSerializer.Serialize(vocabulary);
        return """
            {"added_tokens":[{"id":0,"content":"<unk>","special":true},{"id":1,"content":"<s>","special":true},{"id":2,"content":"</s>","special":true}],
             "normalizer":{"type":"Sequence","normalizers":[{"type":"Prepend","prepend":"▁"},{"type":"Replace","pattern":{"String":" "},"content":"▁"}]},
             "pre_tokenizer":null,
             "post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<s>","type_id":0}},{"Sequence":{"id":"A","type_id":0}}],"special_tokens":{"<s>":{"id":"<s>","ids":[1],"tokens":["<s>"]}}},
             "decoder":{"type":"Sequence","decoders":[{"type":"Replace","pattern":{"String":"▁"},"content":" "},{"type":"ByteFallback"},{"type":"Fuse"},{"type":"Strip","content":" ","start":1,"stop":0}]},
             "model":{"type":"BPE","unk_token":"<unk>","fuse_unk":true,"byte_fallback":true,"vocab":TOKENS,"merges":["h i","▁ hi"]}}
            """.Replace("TOKENS", tokens);
    }
}
