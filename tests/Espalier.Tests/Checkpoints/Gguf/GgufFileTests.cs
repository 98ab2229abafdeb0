using Espalier.Checkpoints;
using Espalier.Checkpoints.Gguf;
using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Tests.Checkpoints.Gguf;

public sealed class GgufFileTests
{
    [Fact]
    public void Q8_0_rounds_halves_away_from_zero_by_a_16_bit_scale()
    {
        float[] values = new float[32];
        (values[0], values[1], values[2], values[3], values[31]) = (127, 0.5f, -0.5f, 1.49f, -127);
        byte[] bytes = GgufTypes.Encode(GgufType.Q8_0, values);
        bytes.Length.ShouldBe(34);
        bytes[..6].ShouldBe([0x00, 0x3C, 127, 1, 0xFF, 1]); // 1.0 as a half, then 127, 1, -1, 1
        bytes[33].ShouldBe((byte)0x81);
        float[] back = new float[32];
        GgufTypes.Decode(GgufType.Q8_0, bytes, back);
        back[..4].ShouldBe([127, 1, -1, 1]);
    }

    [Fact]
    public void Q4_0_makes_the_value_of_greatest_size_minus_8()
    {
        float[] values = new float[32];
        (values[0], values[1], values[15], values[16], values[17]) = (-8, 7, 0.4f, 3, 8);
        byte[] bytes = GgufTypes.Encode(GgufType.Q4_0, values);
        bytes.Length.ShouldBe(18);
        // The scale is -8 / -8 = 1; value q is stored as q + 8, low halves first; 8 does not fit and becomes 7.
        bytes[..4].ShouldBe([0x00, 0x3C, 0xB0, 0xFF]);
        bytes[4].ShouldBe((byte)0x88);
        bytes[17].ShouldBe((byte)0x88);
        float[] back = new float[32];
        GgufTypes.Decode(GgufType.Q4_0, bytes, back);
        (back[0], back[1], back[15], back[16], back[17]).ShouldBe((-8, 7, 0, 3, 7));
    }

    [Fact]
    public void A_block_of_zeros_stays_zero()
    {
        GgufTypes.Encode(GgufType.Q8_0, new float[32]).ShouldAllBe(b => b == 0);
        float[] back = new float[32];
        GgufTypes.Decode(GgufType.Q4_0, GgufTypes.Encode(GgufType.Q4_0, new float[32]), back);
        back.ShouldAllBe(v => v == 0);
    }

    [Fact]
    public void What_was_written_is_read_in_every_type_and_kind()
    {
        using var folder = new TemporaryFolder();
        using var scope = NewDisposeScope();
        Tensor value = arange(-64, 64, dtype: ScalarType.Float32).view(2, 64) / 16;
        GgufType[] types = Enum.GetValues<GgufType>();
        GgufMetadata metadata = new();
        (string, object)[] entries = [("a", 7u), ("b", -3), ("c", 1.5f), ("d", true), ("e", "Ġthe ö"), ("f", 1UL << 40), ("g", -5L), ("h", 0.1), ("i", (byte)200), ("j", (sbyte)-2), ("k", (ushort)60000), ("l", (short)-9),
            ("m", new[] { "x", "", "z" }), ("n", new[] { 1f, 2f }), ("o", Array.Empty<int>())];
        foreach ((string key, object entry) in entries)
        {
            metadata.Add(key, entry);
        }

        using (GgufWriter writer = GgufWriter.Create(folder["a.gguf"], metadata, [.. types.Select(t => new GgufTensor($"{t}", t, [2, 64])), new GgufTensor("odd", GgufType.F32, [3])]))
        {
            foreach (GgufType type in types)
            {
                writer.Write($"{type}", value);
            }

            writer.Write("odd", ones(3));
            writer.Commit();
        }

        using GgufFile file = GgufFile.Open(folder["a.gguf"]);
        foreach ((string key, object entry) in entries)
        {
            file.Metadata.Find(key).ShouldBe(entry);
        }

        file.Info("Q8_0").ShouldSatisfyAllConditions(i => i.Shape.ShouldBe([2L, 64L]), i => i.ByteCount.ShouldBe(4 * 34));
        foreach (GgufType type in types)
        {
            double error = (file.Read($"{type}", ScalarType.Float32) - value).abs().max().item<float>();
            error.ShouldBeLessThanOrEqualTo(type switch { GgufType.Q8_0 => 4.0 / 127, GgufType.Q4_0 => 0.5, _ => 0 }, $"{type}");
        }

        file.Read("odd").data<float>().ToArray().ShouldBe([1f, 1f, 1f]);
        Should.Throw<EspalierException>(() => file.Read("off")).Message.ShouldContain("no tensor 'off'");
    }

    [Fact]
    public void Values_that_do_not_fit_are_refused()
    {
        using var folder = new TemporaryFolder();
        using var scope = NewDisposeScope();
        using GgufWriter writer = GgufWriter.Create(folder["a.gguf"], new GgufMetadata(), [new("half", GgufType.F16, [32]), new("q", GgufType.Q8_0, [32]), new("n", GgufType.F32, [1])]);
        Should.Throw<EspalierException>(() => writer.Write("half", full(32, 1e6f))).Message.ShouldContain("65504");
        Should.Throw<EspalierException>(() => writer.Write("q", full(32, 1e9f))).Message.ShouldContain("scale");
        Should.Throw<EspalierException>(() => writer.Write("n", full(1, float.NaN))).Message.ShouldContain("finite");
        Should.Throw<EspalierException>(() => writer.Write("n", ones(2))).Message.ShouldContain("planned");
        Should.Throw<EspalierException>(() => writer.Write("m", ones(2))).Message.ShouldContain("not planned");
        Should.Throw<EspalierException>(writer.Commit).Message.ShouldContain("not complete");
        Should.Throw<EspalierException>(() => new GgufTensor("w", GgufType.Q4_0, [4, 33]).ByteCount).Message.ShouldContain("f16");
    }

    [Fact]
    public void A_disk_that_fails_anywhere_leaves_the_old_file_whole()
    {
        using var folder = new TemporaryFolder();
        using var scope = NewDisposeScope();
        string path = folder["a.gguf"];
        File.WriteAllText(path, "old");
        var counting = new FailingFileLayer(int.MaxValue, FailingFileLayer.DiskFull);
        Write(folder["b.gguf"], counting);
        counting.Calls.ShouldBeGreaterThan(5);
        for (int failAt = 0; failAt < counting.Calls - 1; failAt++) // the last call flushes the folder, after the rename
        {
            Should.Throw<EspalierException>(() => Write(path, new FailingFileLayer(failAt, FailingFileLayer.DiskFull)));
            File.ReadAllText(path).ShouldBe("old", $"call {failAt}");
            Directory.GetFiles(folder.Path, ".*").ShouldBeEmpty();
        }
    }

    [Fact]
    public void Damaged_files_get_a_sentence()
    {
        using var folder = new TemporaryFolder();
        using var scope = NewDisposeScope();
        Write(folder["good.gguf"], FileSystem.Instance);
        byte[] good = File.ReadAllBytes(folder["good.gguf"]);
        for (int length = 0; length < good.Length - 28; length += 3) // 28 bytes fill up the last tensor and are not missed
        {
            Refused(good[..length]);
        }

        foreach ((int at, byte value) in ((int, byte)[])[(0, 0), (4, 9), (15, 0xFF), (23, 0xFF), (31, 0x7F)])
        {
            byte[] bad = [.. good];
            bad[at] = value;
            Refused(bad).ShouldNotBeNullOrEmpty();
        }

        string Refused(byte[] bytes)
        {
            File.WriteAllBytes(folder["bad.gguf"], bytes);
            return Should.Throw<EspalierException>(() => GgufFile.Open(folder["bad.gguf"]).Dispose(), $"{bytes.Length} bytes").Message;
        }
    }

    private static void Write(string path, IFileLayer layer)
    {
        var metadata = new GgufMetadata();
        metadata.Add("general.architecture", "llama");
        using GgufWriter writer = GgufWriter.Create(path, metadata, [new("a", GgufType.F32, [2, 32]), new("b", GgufType.Q8_0, [2, 32])], layer);
        using Tensor value = ones(2, 32);
        writer.Write("a", value);
        writer.Write("b", value);
        writer.Commit();
    }
}
