using CsCheck;
using Espalier.Checkpoints;
using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Tests.Checkpoints;

public sealed class SafeTensorsFileTests
{
    public static readonly ScalarType[] StorableTypes =
    [
        ScalarType.Float64, ScalarType.Float32, ScalarType.Float16, ScalarType.BFloat16, ScalarType.Int64, ScalarType.Int32,
        ScalarType.Int16, ScalarType.Int8, ScalarType.Byte, ScalarType.Bool, ScalarType.ComplexFloat32,
    ];

    private static readonly Gen<(ScalarType Type, long[] Shape)> AnyTensor =
        Gen.Select(Gen.Int[0, StorableTypes.Length - 1].Select(i => StorableTypes[i]), Gen.Long[0, 5].Array[0, 4]);

    [Fact]
    public void Every_type_and_shape_comes_back_bit_for_bit()
    {
        using var folder = new TemporaryFolder();
        AnyTensor.Array[0, 6].Sample(
            tensors =>
            {
                using var scope = NewDisposeScope();
                string path = folder["round.safetensors"];
                (string, Tensor)[] written = tensors.Select((t, i) => ($"t{i}", Fill(t.Type, t.Shape, i))).ToArray();
                SafeTensorsFile.Save(path, written, new Dictionary<string, string> { ["note"] = "ümläut \"quoted\"" });

                using var file = SafeTensorsFile.Open(path);
                file.Names.Order().ShouldBe(written.Select(w => w.Item1).Order());
                file.Metadata["note"].ShouldBe("ümläut \"quoted\"");
                foreach ((string name, Tensor tensor) in written)
                {
                    using Tensor read = file.Read(name);
                    read.dtype.ShouldBe(tensor.dtype);
                    read.shape.ShouldBe(tensor.shape);
                    if (tensor.NumberOfElements > 0)
                    {
                        read.bytes.SequenceEqual(tensor.bytes).ShouldBeTrue();
                    }

                    file.Bytes(name).SequenceEqual(tensor.NumberOfElements > 0 ? tensor.bytes : default).ShouldBeTrue();
                    // Wide types come first, so every tensor lies on a multiple of its element.
                    (file.Bytes(name).Length % tensor.ElementSize).ShouldBe(0);
                }
            },
            iter: 60,
            threads: 1);
    }

    [Fact]
    public void Reading_converts_when_another_type_is_asked_for()
    {
        using var folder = new TemporaryFolder();
        using var scope = NewDisposeScope();
        SafeTensorsFile.Save(folder["a.safetensors"], [("w", tensor(new[] { 1.5f, -2f, 3.25f }).to(ScalarType.BFloat16))]);
        using var file = SafeTensorsFile.Open(folder["a.safetensors"]);
        file.Info("w").ElementType.ShouldBe("BF16");
        Tensor read = file.Read("w", ScalarType.Float32);
        read.dtype.ShouldBe(ScalarType.Float32);
        read.data<float>().ToArray().ShouldBe([1.5f, -2f, 3.25f]);
    }

    [Fact]
    public void Eight_bit_floats_come_as_their_bytes()
    {
        using var folder = new TemporaryFolder();
        File.WriteAllBytes(folder["f8.safetensors"], RawSafeTensors.Build("""{"a":{"dtype":"F8_E4M3","shape":[3],"data_offsets":[0,3]},"b":{"dtype":"F8_E5M2","shape":[2],"data_offsets":[3,5]}}""", 5));
        using var file = SafeTensorsFile.Open(folder["f8.safetensors"]);
        using Tensor a = file.Read("a");
        a.dtype.ShouldBe(ScalarType.Byte);
        a.data<byte>().ToArray().ShouldBe([1, 2, 3]);
        file.Bytes("b").ToArray().ShouldBe([4, 5]);
        file.Bytes("b", 1, 1).ToArray().ShouldBe([5]);
        Should.Throw<ArgumentOutOfRangeException>(() => file.Bytes("b", 1, 2).Length);
    }

    [Fact]
    public void Unsigned_integers_without_a_tensor_type_still_give_their_bytes()
    {
        using var folder = new TemporaryFolder();
        File.WriteAllBytes(folder["u.safetensors"], RawSafeTensors.Build("""{"a":{"dtype":"U16","shape":[2],"data_offsets":[0,4]}}""", 4));
        using var file = SafeTensorsFile.Open(folder["u.safetensors"]);
        file.Bytes("a").Length.ShouldBe(4);
        Should.Throw<EspalierException>(() => file.Read("a")).Message.ShouldContain("U16");
    }

    [Fact]
    public void A_scalar_and_a_tensor_without_elements_are_legal()
    {
        using var folder = new TemporaryFolder();
        File.WriteAllBytes(folder["z.safetensors"], RawSafeTensors.Build("""{"s":{"dtype":"U8","shape":[],"data_offsets":[0,1]},"z":{"dtype":"F32","shape":[0,3],"data_offsets":[1,1]}}  """, 1));
        using var file = SafeTensorsFile.Open(folder["z.safetensors"]);
        using Tensor s = file.Read("s");
        using Tensor z = file.Read("z");
        s.shape.ShouldBeEmpty();
        s.item<byte>().ShouldBe((byte)1);
        z.shape.ShouldBe([0, 3]);
    }

    [Fact]
    public void Names_come_in_the_order_of_the_file()
    {
        using var folder = new TemporaryFolder();
        File.WriteAllBytes(folder["o.safetensors"], RawSafeTensors.Build("""{"late":{"dtype":"U8","shape":[1],"data_offsets":[2,3]},"early":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}""", 3));
        using var file = SafeTensorsFile.Open(folder["o.safetensors"]);
        file.Names.ShouldBe(["early", "late"]);
        file.TotalBytes.ShouldBe(3);
    }

    [Fact]
    public void A_missing_tensor_is_named_with_the_nearest_one()
    {
        using var folder = new TemporaryFolder();
        using var scope = NewDisposeScope();
        SafeTensorsFile.Save(folder["n.safetensors"], [("model.norm.weight", zeros(2)), ("other", zeros(1))]);
        using var file = SafeTensorsFile.Open(folder["n.safetensors"]);
        Should.Throw<EspalierException>(() => file.Read("norm.weight")).Message.ShouldContain("did you mean 'model.norm.weight'");
        Should.Throw<EspalierException>(() => file.Info("entirely.different")).Message.ShouldNotContain("did you mean");
    }

    [Fact]
    public void After_dispose_nothing_holds_the_file()
    {
        using var folder = new TemporaryFolder();
        using var scope = NewDisposeScope();
        string path = folder["d.safetensors"];
        SafeTensorsFile.Save(path, [("w", ones(8))]);
        var file = SafeTensorsFile.Open(path);
        _ = file.Bytes("w");
        file.Dispose();
        file.Dispose();
        Should.Throw<ObjectDisposedException>(() => file.Read("w"));
        if (OperatingSystem.IsLinux())
        {
            File.ReadAllText("/proc/self/maps").ShouldNotContain(path);
            Directory.EnumerateFiles("/proc/self/fd").Select(fd => File.ResolveLinkTarget(fd, false)?.FullName).ShouldNotContain(path);
        }

        // An exclusive opening fails while anybody holds the file.
        using var alone = new FileStream(path, FileMode.Open, FileAccess.ReadWrite, FileShare.None);
        alone.Length.ShouldBeGreaterThan(0);
    }

    [Fact]
    public void A_file_cut_short_at_any_byte_gets_a_sentence()
    {
        using var folder = new TemporaryFolder();
        using var scope = NewDisposeScope();
        string path = folder["whole.safetensors"];
        SafeTensorsFile.Save(path, [("a", arange(3, dtype: ScalarType.Float32)), ("b", zeros(2, dtype: ScalarType.Byte))], new Dictionary<string, string> { ["format"] = "pt" });
        byte[] whole = File.ReadAllBytes(path);
        for (int length = 0; length < whole.Length; length++)
        {
            string cut = folder["cut.safetensors"];
            File.WriteAllBytes(cut, whole[..length]);
            Should.Throw<EspalierException>(() => SafeTensorsFile.Open(cut), $"at {length}").Message.ShouldContain(cut);
        }
    }

    [Fact]
    public void A_file_with_any_byte_of_its_header_changed_is_read_or_refused_but_never_crashes()
    {
        using var folder = new TemporaryFolder();
        using var scope = NewDisposeScope();
        string path = folder["flip.safetensors"];
        SafeTensorsFile.Save(path, [("a", arange(3, dtype: ScalarType.Float32)), ("b", zeros(2, 0, dtype: ScalarType.Int16))]);
        byte[] whole = File.ReadAllBytes(path);
        Gen.Select(Gen.Int[0, whole.Length - 13], Gen.Byte).Array[1, 3].Sample(
            changes =>
            {
                byte[] changed = (byte[])whole.Clone();
                Array.ForEach(changes, change => changed[change.Item1] = change.Item2);
                File.WriteAllBytes(path, changed);
                try
                {
                    using var file = SafeTensorsFile.Open(path);
                    foreach (string name in file.Names)
                    {
                        using Tensor read = file.Read(name);
                        read.NumberOfElements.ShouldBe(file.Info(name).ElementCount);
                    }
                }
                catch (EspalierException sentence)
                {
                    sentence.Message.ShouldNotBeEmpty();
                }
            },
            iter: 2000,
            threads: 1);
    }

    [Fact]
    public void A_file_shortened_while_open_gets_a_sentence_and_not_a_crash()
    {
        using var folder = new TemporaryFolder();
        using var scope = NewDisposeScope();
        string path = folder["short.safetensors"];
        SafeTensorsFile.Save(path, [("w", ones(100_000))]);
        using var file = SafeTensorsFile.Open(path);
        // As another program that ignores locks would.
        using (var other = new FileStream(path, new FileStreamOptions { Mode = FileMode.Open, Access = FileAccess.ReadWrite, Share = FileShare.ReadWrite | FileShare.Delete }))
        {
            other.SetLength(1000);
        }

        Should.Throw<EspalierException>(() => file.Read("w")).Message.ShouldContain("cut short");
        Should.Throw<EspalierException>(() => file.Bytes("w").Length).Message.ShouldContain("cut short");
    }

    [Theory]
    [InlineData("pytorch_model.bin")]
    [InlineData("model.pt")]
    [InlineData("model.ckpt")]
    public void Pickles_are_refused_with_the_reason_and_the_way_out(string name)
    {
        using var folder = new TemporaryFolder();
        File.WriteAllText(folder[name], "whatever");
        string message = Should.Throw<EspalierException>(() => SafeTensorsFile.Open(folder[name])).Message;
        message.ShouldContain("code");
        message.ShouldContain("convert");
    }

    [Fact]
    public void A_missing_file_gets_a_sentence()
    {
        using var folder = new TemporaryFolder();
        Should.Throw<EspalierException>(() => SafeTensorsFile.Open(folder["none.safetensors"])).Message.ShouldContain("none.safetensors");
        Should.Throw<EspalierException>(() => SafeTensorsFile.Open(folder.Path)).Message.ShouldContain(folder.Path);
    }

    [Fact]
    public void The_shared_model_opens_and_reads()
    {
        string path = TestPaths.RequireShared("hub/models--espalier--imdb-llama-2.8m/snapshots/local/model.safetensors");
        using var file = SafeTensorsFile.Open(path);
        using Tensor embedding = file.Read("model.embed_tokens.weight");
        embedding.shape.ShouldBe([4096, 192]);
        file.Metadata["format"].ShouldBe("pt");
    }

    [Fact]
    public void Every_reference_file_opens()
    {
        string[] paths = Directory.GetFiles(TestPaths.RequireShared("parity"), "*.safetensors", SearchOption.AllDirectories);
        paths.ShouldNotBeEmpty();
        foreach (string path in paths)
        {
            using var file = SafeTensorsFile.Open(path);
            foreach (string name in file.Names)
            {
                using Tensor tensor = file.Read(name);
                tensor.NumberOfElements.ShouldBe(file.Info(name).ElementCount);
            }
        }
    }

    /// <summary>A tensor whose bytes are a known pattern, valid for its type.</summary>
    internal static Tensor Fill(ScalarType type, long[] shape, int seed)
    {
        long count = shape.Aggregate(1L, (a, b) => a * b);
        if (count == 0)
        {
            return zeros(shape, dtype: type);
        }

        using var generator = new Seed(seed).Generator("fill");
        Tensor bits = randint(0, type == ScalarType.Bool ? 2 : 100, shape, dtype: ScalarType.Int64, generator: generator);
        return bits.to(type);
    }
}
