using System.Buffers.Binary;
using System.Diagnostics;
using System.IO.Compression;
using System.Text;
using Espalier.Checkpoints.Gguf;
using Espalier.Data;
using Espalier.Models;
using Espalier.Models.Vision;
using Espalier.Runtime;
using Espalier.Sparsity.NormalFloats;
using Espalier.Tests.Data;
using Espalier.Tests.Models;

namespace Espalier.Tests.Fuzzing;

/// <summary>What fuzzing or reading the code found: small files that claim to be large, deep or many. Each gets a sentence, soon, without the memory that it asks for.</summary>
public sealed class HostileFileTests
{
    [Theory]
    [InlineData("llama", "num_hidden_layers", 16_777_217)]
    [InlineData("llama", "num_hidden_layers", 9_999)]
    [InlineData("gpt2", "n_layer", int.MaxValue)]
    [InlineData("llama", "hidden_size", int.MaxValue)]
    [InlineData("llama", "head_dim", 1 << 28)]
    [InlineData("opt", "max_position_embeddings", int.MaxValue)]
    public void A_configuration_of_impossible_sizes_is_refused(string family, string field, int value)
    {
        using var folder = new TemporaryFolder();
        TinyModels.Write(folder.Path, TinyModels.Config(family));
        string path = folder[ModelConfig.FileName];
        var json = (System.Text.Json.Nodes.JsonObject)System.Text.Json.Nodes.JsonNode.Parse(File.ReadAllText(path))!;
        json[field] = value;
        File.WriteAllText(path, json.ToJsonString());
        Refused(() => StreamedModel.Open(folder.Path).Dispose()).ShouldContain(ModelConfig.FileName);
    }

    [Theory]
    [InlineData("""{"model_type":"llama","hidden_size":24,"hidden_size":24}""", "Duplicate")]
    [InlineData("""{"model_type":"\ud800"}""", "surrogate")]
    [InlineData("""{"model_type":"llama","x":{"\udc00":1}}""", "surrogate")]
    public void A_configuration_that_is_no_text_or_says_things_twice_is_refused(string json, string says)
    {
        Refused(() => ModelConfig.Parse(json)).ShouldContain(says, Case.Insensitive);
        Refused(() => VisionConfig.Parse(json)).ShouldContain(says, Case.Insensitive);
    }

    [Theory]
    [InlineData("""{"model_type":"mlp","num_classes":3,"num_channels":115292151,"image_size":4}""")]
    [InlineData("""{"model_type":"cifar_resnet","depth":8,"channels":[2147483584,8,16],"image_size":8}""")]
    [InlineData("""{"model_type":"cifar_resnet","depth":8,"channels":[-4,8,16],"image_size":8}""")]
    [InlineData("""{"model_type":"cifar_resnet","depth":268435454,"image_size":8}""")]
    [InlineData("""{"model_type":"vit","depth":268435454,"image_size":32}""")]
    [InlineData("""{"model_type":"vit","image_size":65536,"patch_size":65536,"embed_dim":268435455}""")]
    public void A_vision_net_of_impossible_sizes_is_refused(string json) =>
        Refused(() => VisionModel.Outline(VisionConfig.Parse(json)).Dispose());

    [Fact]
    public void A_tokeniser_configuration_that_is_no_text_is_refused()
    {
        using var folder = new TemporaryFolder();
        File.WriteAllText(folder["tokenizer.json"], TokenizerTests.LlamaTwo());
        File.WriteAllBytes(folder["tokenizer_config.json"], [.. "{\"bos_token\":\""u8, 0xB1, .. "\"}"u8]);
        Refused(() => Tokenizer.Load(folder.Path)).ShouldContain("damaged");
    }

    [Fact]
    public void Many_keys_of_a_gguf_file_take_no_more_than_their_bytes()
    {
        using var folder = new TemporaryFolder();
        using var bytes = new MemoryStream();
        using (var writer = new BinaryWriter(bytes, Encoding.UTF8, leaveOpen: true))
        {
            const int entries = 200_000; // quadratic search took minutes here
            writer.Write(GgufWriter.Magic);
            writer.Write(3u);
            writer.Write(0UL);
            writer.Write((ulong)entries);
            for (int i = 0; i < entries; i++)
            {
                writer.Write(4UL);
                writer.Write(i ^ 0x01010101);
                writer.Write(0u);
                writer.Write((byte)1);
            }
        }

        File.WriteAllBytes(folder["m.gguf"], bytes.ToArray());
        long start = Stopwatch.GetTimestamp();
        try
        {
            GgufFile.Open(folder["m.gguf"]).Dispose();
        }
        catch (EspalierException)
        {
            // Some keys become the same text; only the time counts.
        }

        Stopwatch.GetElapsedTime(start).TotalSeconds.ShouldBeLessThan(10);
    }

    [Fact]
    public void A_list_of_a_gguf_file_is_no_longer_than_its_bytes()
    {
        using var folder = new TemporaryFolder();
        using var bytes = new MemoryStream();
        using (var writer = new BinaryWriter(bytes, Encoding.UTF8, leaveOpen: true))
        {
            writer.Write(GgufWriter.Magic);
            writer.Write(3u);
            writer.Write(0UL);
            writer.Write(1UL);
            writer.Write(1UL);
            writer.Write((byte)'a');
            writer.Write(9u);
            writer.Write(8u);
            writer.Write(900_000UL); // texts of at least 8 bytes in a file of a million
            writer.Write(new byte[1_000_000]);
        }

        File.WriteAllBytes(folder["m.gguf"], bytes.ToArray());
        Refused(() => GgufFile.Open(folder["m.gguf"]).Dispose()).ShouldContain("claims 900000 items");
    }

    [Theory]
    [InlineData("[", 200_000)]
    [InlineData("- ", 100_000)]
    [InlineData("{a: ", 100_000)]
    public void A_plan_of_a_hundred_thousand_levels_does_not_end_the_process(string level, int count) =>
        Refused(() => PlanFile.Parse("a: " + string.Concat(Enumerable.Repeat(level, count)), "plan.yaml"));

    [Theory]
    [InlineData("&a [*a, *a]: 1", "plain text")]
    [InlineData("b: &a [*a, *a]", "holds itself")]
    [InlineData("b: &a { c: { d: *a } }", "holds itself")]
    [InlineData("a: &a [x]\n? *a\n: 1", "plain text")]
    public void A_plan_that_holds_itself_is_refused(string yaml, string says) =>
        Refused(() => PlanFile.Parse(yaml, "plan.yaml")).ShouldContain(says);

    [Fact]
    public void A_pattern_that_goes_back_and_forth_for_ever_is_broken_off()
    {
        using var folder = new TemporaryFolder();
        File.WriteAllText(folder["tokenizer.json"], """{"pre_tokenizer":{"type":"Split","pattern":{"Regex":"(a+)+$"},"behavior":"Isolated","invert":false},"model":{"type":"BPE","vocab":{"a":0,"!":1},"merges":[]}}""");
        Tokenizer tokenizer = Tokenizer.Load(folder.Path);
        Refused(() => tokenizer.Encode(new string('a', 40) + "!")).ShouldContain("did not come to an end");
    }

    [Fact]
    public void A_tokeniser_with_a_token_of_a_huge_number_is_refused()
    {
        using var folder = new TemporaryFolder();
        foreach (int id in (int[])[100_000_001, int.MaxValue, -1])
        {
            File.WriteAllText(folder["tokenizer.json"], TokenizerTests.LlamaTwo().Replace("{\"id\":2,", $"{{\"id\":{id},", StringComparison.Ordinal));
            Refused(() => Tokenizer.Load(folder.Path));
        }
    }

    [Fact]
    public void A_gzip_file_unpacks_to_what_its_sizes_say_and_no_further()
    {
        using var folder = new TemporaryFolder();
        byte[] Packed(int rows, int zeros)
        {
            byte[] head = [0, 0, 8, 1, 0, 0, 0, 0];
            BinaryPrimitives.WriteInt32BigEndian(head.AsSpan(4), rows);
            using var packed = new MemoryStream();
            using (var zip = new GZipStream(packed, CompressionLevel.Fastest, leaveOpen: true))
            {
                zip.Write(head);
                zip.Write(new byte[zeros]);
            }

            return packed.ToArray();
        }

        File.WriteAllBytes(folder["bomb.gz"], Packed(10, 200 << 20));
        Refused(() => IdxFile.Read(folder["bomb.gz"]), mostMegabytes: 16).ShouldContain("10");
        File.WriteAllBytes(folder["lie.gz"], Packed(int.MaxValue, 10));
        Refused(() => IdxFile.Read(folder["lie.gz"]), mostMegabytes: 16).ShouldContain("claims");
        File.WriteAllBytes(folder["sound.gz"], Packed(10, 10));
        IdxFile.Read(folder["sound.gz"]).Values.Length.ShouldBe(10);
    }

    [Fact]
    public void An_image_that_claims_billions_of_pixels_is_refused()
    {
        using var bitmap = new SkiaSharp.SKBitmap(4, 4);
        using SkiaSharp.SKData data = bitmap.Encode(SkiaSharp.SKEncodedImageFormat.Png, 90);
        byte[] png = data.ToArray();
        BinaryPrimitives.WriteInt32BigEndian(png.AsSpan(16), 60_000);
        BinaryPrimitives.WriteInt32BigEndian(png.AsSpan(20), 60_000);
        uint crc = ~0u; // of the header, so that the decoder believes it
        foreach (byte b in png.AsSpan(12, 17))
        {
            crc ^= b;
            for (int i = 0; i < 8; i++)
            {
                crc = (crc >> 1) ^ (0xEDB88320 & (uint)-(int)(crc & 1));
            }
        }

        BinaryPrimitives.WriteUInt32BigEndian(png.AsSpan(29), ~crc);
        Refused(() => ImageDecoder.Measure(png, "a.png")).ShouldContain("a.png");
    }

    [Fact]
    public void A_matrix_whose_size_would_wrap_around_is_refused() =>
        Refused(() => new NfMatrix(new NfFormat { Bits = 8, Block = int.MaxValue, SuperBlock = int.MaxValue }, int.MaxValue, int.MaxValue, new byte[8], new byte[8], [], 0)).ShouldContain("damaged");

    private static string Refused(Action read, int mostMegabytes = 64)
    {
        long before = GC.GetAllocatedBytesForCurrentThread(), start = Stopwatch.GetTimestamp();
        string message = Should.Throw<EspalierException>(read).Message;
        ((GC.GetAllocatedBytesForCurrentThread() - before) >> 20).ShouldBeLessThan(mostMegabytes);
        Stopwatch.GetElapsedTime(start).TotalSeconds.ShouldBeLessThan(20); // under a second on a quiet machine
        message.Length.ShouldBeLessThan(1000);
        return message;
    }
}
