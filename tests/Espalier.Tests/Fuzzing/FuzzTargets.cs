using System.Text;
using Espalier.Checkpoints;
using Espalier.Checkpoints.Gguf;
using Espalier.Checkpoints.Onnx;
using Espalier.Data;
using Espalier.Models;
using Espalier.Models.Vision;
using Espalier.Runtime;
using Espalier.Sparsity.NormalFloats;
using Espalier.Sparsity.Packed;
using Espalier.Tests.Checkpoints;
using Espalier.Tests.Data;
using Espalier.Tests.Models;
using Espalier.Tests.Models.Vision;
using Espalier.Training;
using Parquet;
using Parquet.Schema;
using TorchSharp;
using static TorchSharp.torch;

namespace Espalier.Tests.Fuzzing;

/// <summary>All readers of files from strangers.</summary>
internal static class FuzzTargets
{
    private const string Weights = "model.safetensors", Text = "hi hi  the 12 cats'll say \u00e9\U0001F600 <s>\n";
    private static readonly Action<string> Nothing = _ => { };

    /// <summary>By name.</summary>
    public static IReadOnlyList<FuzzTarget> All { get; } =
    [
        new("safetensors", Weights, FuzzKind.SafeTensors, Nothing, SafeTensorsSeeds, path =>
        {
            using SafeTensorsFile file = SafeTensorsFile.Open(path);
            foreach (string name in file.Names)
            {
                ReadTensor(file, name);
                Touch(file.Bytes(name));
            }
        }),
        new("index", Weights + ".index.json", FuzzKind.Text, Shards, () => [Utf8("""{"metadata":{"total_size":12},"weight_map":{"a":"x-1.safetensors","b":"x-2.safetensors"}}""")], path =>
        {
            using Checkpoint checkpoint = Checkpoint.Open(Path.GetDirectoryName(path)!);
            ReadAll(checkpoint);
        }),
        new("config", ModelConfig.FileName, FuzzKind.Text, folder => TinyModels.Write(folder, TinyModels.Config("llama")), () => [.. Architecture.Known.Select(f => Utf8(TinyModels.Config(f).ToJsonText())), Utf8(Rope)], path =>
        {
            using var scope = NewDisposeScope();
            using StreamedModel model = StreamedModel.Open(Path.GetDirectoryName(path)!);
            model.Logits([1, 2, 3]);
        }),
        new("vision-config", ModelConfig.FileName, FuzzKind.Text, Nothing, () => [.. Vision.Select(Utf8)], path =>
        {
            using var scope = NewDisposeScope();
            using VisionModel model = VisionModel.Outline(VisionConfig.Load(Path.GetDirectoryName(path)!));
        }),
        new("tokenizer-json", "tokenizer.json", FuzzKind.Text, Nothing, () => [Utf8(TokenizerTests.LlamaTwo()), Utf8(ByteLevel)], Tokenize),
        new("tokenizer-config", "tokenizer_config.json", FuzzKind.Text, folder => File.WriteAllText(Path.Combine(folder, "tokenizer.json"), ByteLevel),
            () => [Utf8("""{"add_bos_token":true,"add_eos_token":false,"add_prefix_space":true,"bos_token":{"content":"a"},"eos_token":"b","pad_token":"c","unk_token":null,"tokenizer_class":"GPT2Tokenizer"}""")], Tokenize),
        new("sentencepiece", "tokenizer.model", FuzzKind.Binary, Nothing, () => [TokenizerTests.SentencePieceBytes()], path =>
        {
            Tokenize(path);
            Tokenizer.Load(path).ToTable();
        }),
        new("merges", "merges.txt", FuzzKind.Text, folder => File.WriteAllText(Path.Combine(folder, "vocab.json"), """{"</s>":0,"a":1,"b":2,"ab":3,"Ġ":4,"Ġab":5}"""), () => [Utf8("#version: 0.2\na b\nĠ ab\n")], Tokenize),
        new("gguf", "m.gguf", FuzzKind.Binary, Nothing, GgufSeeds, path =>
        {
            using GgufFile file = GgufFile.Open(path);
            foreach (string name in file.Names)
            {
                file.Info(name);
                ReadTensor(file, name);
            }
        }),
        new("packed", Weights, FuzzKind.SafeTensors, Nothing, PackedSeeds, path =>
        {
            using PackedSource source = PackedSource.Open(Path.GetDirectoryName(path)!);
            ReadAll(source);
            Multiply(source, source.PackedNames);
        }),
        new("normal-float", Weights, FuzzKind.SafeTensors, Nothing, NfSeeds, path =>
        {
            using NfSource source = NfSource.Open(Path.GetDirectoryName(path)!);
            ReadAll(source);
            Multiply(source, source.QuantisedNames);
        }),
        new("parquet", "t.parquet", FuzzKind.Binary, Nothing, ParquetSeeds, ReadTable),
        new("jsonl", "t.jsonl", FuzzKind.Text, Nothing, () => [Utf8("{\"text\":\"a\",\"n\":1,\"x\":1.5,\"c\":[\"u\",\"v\"],\"o\":{\"p\":true}}\n{\"text\":null,\"n\":2}\n\"b\"\n")], ReadTable),
        new("json", "t.json", FuzzKind.Text, Nothing, () => [Utf8("""[{"text":"a","n":1,"x":1.5,"c":["u","v"],"o":{"p":true}},{"text":null,"n":2}]""")], ReadTable),
        new("csv", "t.csv", FuzzKind.Text, Nothing, () => [Utf8("text,n,x\n\"a \"\"b\"\",\nc\",1,1.5\nd,2,\n")], ReadTable),
        new("idx", "t.idx", FuzzKind.Binary, Nothing, IdxSeeds, path => Touch(IdxFile.Read(path).Values.Span)),
        new("image", "t.png", FuzzKind.Binary, Nothing, ImageSeeds, path =>
        {
            byte[] bytes = File.ReadAllBytes(path);
            (int height, int width, int channels) = ImageDecoder.Measure(bytes, path);
            EspalierException.Require((long)height * width * channels <= 1 << 20, "large");
            ImageDecoder.Decode(bytes, channels, height, width, new byte[height * width * channels], path);
        }),
        new("onnx", "m.onnx", FuzzKind.Binary, Nothing, OnnxSeeds, path =>
        {
            using OnnxFile file = OnnxFile.Open(path);
            ReadAll(file);
        }),
        new("plan", "plan.yaml", FuzzKind.Text, Nothing, () => [Utf8("model: m\nout: o\nsparsity: 0.5\npattern: 2:4\ncriterion:\n  name: wanda\n  damp: 0.01\nseeds: [0, 1]\nrepair: {name: sparsegpt}\nnotes: &a \"x\"\n")], path => PlanFile.Read(path)),
        new("adapter", AdapterFile.FileName, FuzzKind.SafeTensors, Nothing,
            () => [RawSafeTensors.Build("""{"__metadata__":{"format":"espalier-adapter-1","method":"lora","options":"{\"rank\":4,\"alpha\":8}"},"a.lora_A":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}""", 8)], path =>
            {
                string folder = Path.GetDirectoryName(path)!;
                using (AdapterFile file = AdapterFile.Open(folder))
                {
                    using var scope = NewDisposeScope();
                    _ = file.Below("a").Count;
                }

                AdapterFile.MethodOf(folder);
            }),
    ];

    private static byte[] Utf8(string text) => Encoding.UTF8.GetBytes(text);

    private static void ReadAll(ITensorSource source)
    {
        foreach (string name in source.Names)
        {
            source.Info(name);
            ReadTensor(source, name);
        }
    }

    private static void ReadTensor(ITensorSource source, string name)
    {
        using var scope = NewDisposeScope();
        using Tensor value = source.Read(name, ScalarType.Float32);
        _ = value.numel() > 0 ? value.sum().item<float>() : 0;
    }

    private static void Multiply(ICompactSource source, IEnumerable<string> names)
    {
        using var scope = NewDisposeScope();
        foreach (string name in names)
        {
            foreach (WeightLayout layout in Enum.GetValues<WeightLayout>())
            {
                ICompactWeight? weight;
                try
                {
                    weight = source.ReadCompact(name, layout);
                }
                catch (EspalierException)
                {
                    continue; // one layout only
                }

                using (weight)
                {
                    (long height, long width) = (source.Info(name).Shape[0], source.Info(name).Shape[1]);
                    (height, width) = layout is WeightLayout.OutIn ? (height, width) : (width, height);
                    EspalierException.Require(width <= 1 << 20 && height <= 1 << 20, "wide");
                    weight!.Multiply(new float[width], new float[height]);
                    weight.Multiply(torch.ones(2, width));
                }
            }
        }
    }

    private static void Tokenize(string path)
    {
        Tokenizer tokenizer = Tokenizer.Load(Path.GetDirectoryName(path)!);
        tokenizer.Decode(tokenizer.Encode(Text));
        tokenizer.Decode([tokenizer.BeginId ?? 0, tokenizer.EndId ?? 0], skipSpecialTokens: false);
    }

    private static void ReadTable(string path)
    {
        ITable table = Table.Open(path);
        foreach (TableColumn column in table.Columns)
        {
            switch (column.Kind)
            {
                case ColumnKind.Text when column.IsList: _ = table.TextLists(column.Name).Sum(l => l.Count); break;
                case ColumnKind.Text: _ = table.Texts(column.Name).Sum(t => t?.Length ?? 0); break;
                case ColumnKind.Integer when !column.IsList: _ = table.Integers(column.Name).Count(n => n > 0); break;
                case ColumnKind.Number when !column.IsList: _ = table.Numbers(column.Name).Count(n => n > 0); break;
                case ColumnKind.Bytes when !column.IsList && table is ParquetTable parquet: _ = parquet.Bytes(column.Name).Sum(b => b?.Length ?? 0); break;
            }
        }
    }

    private static void Touch(ReadOnlySpan<byte> bytes)
    {
        int sum = 0;
        foreach (byte b in bytes)
        {
            sum += b;
        }

        GC.KeepAlive(sum);
    }

    private static byte[] Made(string name, Action<TemporaryFolder> write)
    {
        using var folder = new TemporaryFolder();
        write(folder);
        return File.ReadAllBytes(folder[name]);
    }

    private static IEnumerable<byte[]> SafeTensorsSeeds()
    {
        yield return RawSafeTensors.Build("""{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},"b":{"dtype":"BF16","shape":[4],"data_offsets":[24,32]},"c":{"dtype":"U8","shape":[],"data_offsets":[32,33]}}""", 33);
        yield return RawSafeTensors.Build("""{"a":{"dtype":"F64","shape":[1,2],"data_offsets":[0,16]},"z":{"dtype":"I64","shape":[0,7],"data_offsets":[16,16]}}""", 16);
        yield return RawSafeTensors.Build("{}", 0);
    }

    private static void Shards(string folder)
    {
        File.WriteAllBytes(Path.Combine(folder, "x-1.safetensors"), RawSafeTensors.Build("""{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}""", 8));
        File.WriteAllBytes(Path.Combine(folder, "x-2.safetensors"), RawSafeTensors.Build("""{"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}""", 4));
    }

    private static IEnumerable<byte[]> GgufSeeds()
    {
        yield return Made("a.gguf", folder =>
        {
            using var scope = NewDisposeScope();
            var metadata = new GgufMetadata();
            foreach ((string key, object entry) in new (string, object)[] { ("a", 7u), ("b", -3), ("c", 1.5f), ("d", true), ("e", "the"), ("f", 1UL << 40), ("m", new[] { "x", "", "z" }), ("n", new[] { 1f, 2f }) })
            {
                metadata.Add(key, entry);
            }

            GgufType[] types = Enum.GetValues<GgufType>();
            using GgufWriter writer = GgufWriter.Create(folder["a.gguf"], metadata, [.. types.Select(t => new GgufTensor($"{t}", t, [2, 32]))]);
            foreach (GgufType type in types)
            {
                writer.Write($"{type}", torch.ones(2, 32));
            }

            writer.Commit();
        });
    }

    private static IEnumerable<byte[]> PackedSeeds()
    {
        foreach ((PackedType type, MatrixCode? code) in new (PackedType, MatrixCode?)[] { (PackedType.Float32, null), (PackedType.Int4, null), (PackedType.Int8, MatrixCode.TwoOfFour), (PackedType.Float32, MatrixCode.Dense) })
        {
            yield return Made(Path.Combine("packed", Weights), folder =>
            {
                Directory.CreateDirectory(folder["dense"]);
                using LanguageModel model = TinyModels.Create(TinyModels.Config("llama", ("num_hidden_layers", 1)));
                using var scope = NewDisposeScope();
                using var frozen = no_grad();
                Tensor keep = torch.tensor(new[] { 1f, 0, 0, 1f });
                TinyModels.Write(folder["dense"], model.Config, model.Tensors.Select(t => (t.Name, t.Value.dim() == 2 ? (t.Value.detach().view(-1, 4) * keep).view(t.Value.shape) : (Tensor)t.Value)));
                Packer.Pack(folder["dense"], new PackOptions(type) { Code = code, HeadType = type is PackedType.Float32 ? type : null }, folder["packed"], SilentProgress.Instance);
            });
        }
    }

    private static IEnumerable<byte[]> NfSeeds()
    {
        yield return Made(Weights, folder =>
        {
            using LanguageModel model = TinyModels.Create(TinyModels.Config("llama", ("num_hidden_layers", 1)));
            using var scope = NewDisposeScope();
            using var frozen = no_grad();
            var parts = new Dictionary<string, NfPart>();
            foreach ((string name, Linear linear, _) in model.Blocks.SelectMany(b => b.Linears))
            {
                Tensor left = torch.ones(linear.OutFeatures, 2), right = torch.ones(2, linear.InFeatures);
                NfTensor q = new NfFormat { Bits = 3, Block = 16, SuperBlock = 8 }.Quantise(linear.Matrix);
                bool low = parts.Count % 2 == 0;
                parts[name] = new NfPart(NfMatrix.Of(q), low ? left : null, low ? right : null);
                linear.SetMatrix(low ? q.Dequantise() + left.mm(right) : q.Dequantise());
            }

            NfWriter.Write(model, parts, folder.Path);
        });
    }

    private static IEnumerable<byte[]> ParquetSeeds()
    {
        foreach (CompressionMethod method in new[] { CompressionMethod.None, CompressionMethod.Snappy, CompressionMethod.Zstd, CompressionMethod.Gzip })
        {
            yield return Made("t.parquet", folder => WriteParquet(folder["t.parquet"], method).GetAwaiter().GetResult());
        }
    }

    private static async Task WriteParquet(string path, CompressionMethod method)
    {
        var text = new DataField("text", typeof(string), isNullable: true);
        var number = new DataField("n", typeof(int), isNullable: true);
        var real = new DataField("x", typeof(double));
        string?[] texts = [null, "hat", null, "", "é"];
        int?[] numbers = [1, null, null, 4, 5];
        double[] reals = [1, 2, 3, 4, 5];
        await using FileStream stream = File.Create(path);
        await using ParquetWriter writer = await ParquetWriter.CreateAsync(new ParquetSchema(text, number, real), stream, new ParquetOptions { CompressionMethod = method });
        for (int i = 0; i < 2; i++)
        {
            using ParquetRowGroupWriter group = writer.CreateRowGroup();
            await group.WriteAsync(text, texts!);
            await group.WriteAsync<int>(number, numbers.AsMemory());
            await group.WriteAsync<double>(real, reals.AsMemory());
            group.CompleteValidate();
        }
    }

    private static IEnumerable<byte[]> IdxSeeds()
    {
        byte[] plain = [0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3, 1, 2, 3, 4, 5, 6];
        yield return plain;
        using var packed = new MemoryStream();
        using (var zip = new System.IO.Compression.GZipStream(packed, System.IO.Compression.CompressionLevel.Fastest, leaveOpen: true))
        {
            zip.Write(plain);
        }

        yield return packed.ToArray();
    }

    private static IEnumerable<byte[]> ImageSeeds()
    {
        foreach (SkiaSharp.SKEncodedImageFormat format in new[] { SkiaSharp.SKEncodedImageFormat.Png, SkiaSharp.SKEncodedImageFormat.Jpeg, SkiaSharp.SKEncodedImageFormat.Webp })
        {
            using var bitmap = new SkiaSharp.SKBitmap(5, 4);
            bitmap.SetPixel(1, 2, SkiaSharp.SKColors.Red);
            using SkiaSharp.SKData data = bitmap.Encode(format, 90);
            yield return data.ToArray();
        }
    }

    private static IEnumerable<byte[]> OnnxSeeds()
    {
        yield return Made("m.onnx", folder =>
        {
            using var scope = NewDisposeScope();
            var graph = new OnnxGraph("g", 17, [new OnnxValue("x", OnnxType.F32, [4L, "n"])], [new OnnxValue("y", OnnxType.F32, [8L])],
                [new OnnxNode("Relu", ["w"], ["y"], new Dictionary<string, object> { ["axis"] = 1L, ["eps"] = 0.5f, ["mode"] = "x", ["perm"] = new long[] { 0, 1 } })], [new OnnxTensor("w", OnnxType.F32, [2, 4])]);
            using OnnxWriter writer = OnnxWriter.Create(folder["m.onnx"], graph);
            writer.Write("w", torch.ones(2, 4));
            writer.Commit();
        });
    }

    private const string Rope = """{"model_type":"llama","hidden_size":24,"intermediate_size":40,"num_hidden_layers":2,"num_attention_heads":4,"num_key_value_heads":2,"head_dim":6,"max_position_embeddings":32,"vocab_size":37,"rope_theta":1e4,"rope_scaling":{"rope_type":"llama3","factor":8.0,"low_freq_factor":1.0,"high_freq_factor":4.0,"original_max_position_embeddings":16},"block_shapes":[{"num_attention_heads":4,"num_key_value_heads":2,"intermediate_size":40},{}],"eos_token_id":[1,2],"hidden_act":"silu"}""";

    private const string ByteLevel = """{"added_tokens":[{"id":6,"content":"<s>","special":true,"lstrip":true,"rstrip":false,"single_word":false,"normalized":false}],"normalizer":{"type":"Sequence","normalizers":[{"type":"NFC"},{"type":"Lowercase"},{"type":"Replace","pattern":{"Regex":" +"},"content":" "}]},"pre_tokenizer":{"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":"(?i:'s|'ll)|\\p{L}+|\\p{N}{1,3}|\\s+"},"behavior":"Isolated","invert":false},{"type":"Digits","individual_digits":true},{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":false}]},"post_processor":{"type":"ByteLevel","add_prefix_space":true,"trim_offsets":false},"decoder":{"type":"ByteLevel"},"model":{"type":"BPE","dropout":null,"unk_token":"a","continuing_subword_prefix":"","end_of_word_suffix":"","fuse_unk":false,"byte_fallback":false,"ignore_merges":true,"vocab":{"a":0,"b":1,"c":2,"ab":3,"Ġ":4,"h":5,"i":7,"hi":8},"merges":["a b",["h","i"]]}}""";

    private static string[] Vision =>
    [
        """{"model_type":"mlp","num_classes":3,"num_channels":2,"image_size":4}""",
        TinyVision.ResNet,
        """{"model_type":"lenet","num_classes":10,"num_channels":1,"image_size":28}""",
        """{"model_type":"vgg","num_classes":10,"num_channels":3,"image_size":32}""",
        """{"model_type":"vit","num_classes":10,"num_channels":3,"image_size":32,"patch_size":4,"hidden_size":16,"num_hidden_layers":2,"num_attention_heads":2}""",
    ];
}
