using System.Text;
using Espalier.Checkpoints;
using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Tests.Checkpoints;

public sealed class SafeTensorsWriterTests
{
    private static readonly TensorInfo[] Plan =
    [
        ElementTypes.Plan("flags", ScalarType.Bool, 3),
        ElementTypes.Plan("w", ScalarType.Float32, 2, 2),
        ElementTypes.Plan("half", ScalarType.BFloat16, 5),
    ];

    [Fact]
    public void Tensors_come_in_any_order_and_are_converted_to_the_plan()
    {
        using var folder = new TemporaryFolder();
        using var scope = NewDisposeScope();
        using (var writer = SafeTensorsWriter.Create(folder["a.safetensors"], Plan))
        {
            writer.Write("half", arange(5, dtype: ScalarType.Float64));
            writer.Write("w", tensor(new[] { 1f, 2f, 3f, 4f }).view(2, 2).t());
            writer.WriteBytes("flags", [1, 0, 1]);
            writer.Commit();
        }

        using var file = SafeTensorsFile.Open(folder["a.safetensors"]);
        file.Names.ShouldBe(["w", "half", "flags"]);
        file.Read("w").data<float>().ToArray().ShouldBe([1f, 3f, 2f, 4f]);
        file.Info("half").ElementType.ShouldBe("BF16");
        file.Read("half", ScalarType.Float32).data<float>().ToArray().ShouldBe([0f, 1f, 2f, 3f, 4f]);
        file.Read("flags").data<bool>().ToArray().ShouldBe([true, false, true]);
    }

    [Fact]
    public void The_header_ends_on_eight_bytes_and_the_same_plan_gives_the_same_bytes()
    {
        using var folder = new TemporaryFolder();
        using var scope = NewDisposeScope();
        for (int length = 1; length < 20; length++)
        {
            string name = new('n', length);
            SafeTensorsFile.Save(folder["a.safetensors"], [(name, ones(3))], new Dictionary<string, string> { ["b"] = "2", ["a"] = "1" });
            SafeTensorsFile.Save(folder["b.safetensors"], [(name, ones(3))], new Dictionary<string, string> { ["a"] = "1", ["b"] = "2" });
            byte[] bytes = File.ReadAllBytes(folder["a.safetensors"]);
            bytes.ShouldBe(File.ReadAllBytes(folder["b.safetensors"]));
            (BitConverter.ToInt64(bytes) % 8).ShouldBe(0);
        }
    }

    [Fact]
    public void Tensors_of_more_than_one_piece_arrive_whole()
    {
        using var folder = new TemporaryFolder();
        using var scope = NewDisposeScope();
        Tensor large = arange(9_000_001, dtype: ScalarType.Int32);
        SafeTensorsFile.Save(folder["l.safetensors"], [("l", large)]);
        using var file = SafeTensorsFile.Open(folder["l.safetensors"]);
        file.Read("l").equal(large).all().item<bool>().ShouldBeTrue();
        using (var copy = SafeTensorsWriter.Create(folder["c.safetensors"], [file.Info("l")]))
        {
            copy.Copy("l", file);
            copy.Commit();
        }

        File.ReadAllBytes(folder["c.safetensors"]).AsSpan().SequenceEqual(File.ReadAllBytes(folder["l.safetensors"])).ShouldBeTrue();
    }

    [Fact]
    public void Writing_and_reading_leave_no_tensor_behind()
    {
        using var folder = new TemporaryFolder();
        using (var warm = NewDisposeScope())
        {
            SafeTensorsFile.Save(folder["a.safetensors"], [("w", ones(4, 4).t())]);
        }

        using var scope = NewDisposeScope();
        Tensor w = ones(4, 4, dtype: ScalarType.Float64);
        int before = scope.DisposablesCount;
        using (var writer = SafeTensorsWriter.Create(folder["a.safetensors"], [ElementTypes.Plan("w", ScalarType.Float16, 4, 4)]))
        {
            writer.Write("w", w.alias());
            writer.Commit();
        }

        using (var file = SafeTensorsFile.Open(folder["a.safetensors"]))
        {
            file.Read("w", ScalarType.Float32).Dispose();
        }

        // Only the alias made here.
        scope.DisposablesCount.ShouldBe(before + 1);
        w.IsInvalid.ShouldBeFalse();
    }

    [Fact]
    public void A_writer_disposed_without_commit_leaves_the_old_file_and_nothing_else()
    {
        using var folder = new TemporaryFolder();
        using var scope = NewDisposeScope();
        SafeTensorsFile.Save(folder["a.safetensors"], [("old", ones(3))]);
        byte[] before = File.ReadAllBytes(folder["a.safetensors"]);
        using (var writer = SafeTensorsWriter.Create(folder["a.safetensors"], Plan))
        {
            writer.Write("w", zeros(2, 2));
        }

        File.ReadAllBytes(folder["a.safetensors"]).ShouldBe(before);
        Directory.GetFiles(folder.Path).Length.ShouldBe(1);
    }

    [Fact]
    public void Whatever_call_fails_the_old_file_or_the_new_one_is_whole()
    {
        using var folder = new TemporaryFolder();
        using var scope = NewDisposeScope();
        string path = folder["a.safetensors"];
        SafeTensorsFile.Save(path, [("old", ones(3))]);
        byte[] old = File.ReadAllBytes(path);
        for (int k = 0; ; k++)
        {
            File.WriteAllBytes(path, old);
            var layer = new FailingFileLayer(k, FailingFileLayer.DiskFull);
            bool committed = false;
            try
            {
                using var writer = SafeTensorsWriter.Create(path, Plan, null, layer);
                writer.Write("w", ones(2, 2));
                writer.Write("half", ones(5));
                writer.Write("flags", zeros(3, dtype: ScalarType.Bool));
                writer.Commit();
                committed = true;
            }
            catch (EspalierException sentence)
            {
                sentence.Message.ShouldContain("not enough room");
                sentence.Message.ShouldContain(path);
            }

            using (var file = SafeTensorsFile.Open(path))
            {
                bool isNew = file.Contains("w");
                isNew.ShouldBe(!file.Contains("old"));
                (committed && !isNew).ShouldBeFalse();
                _ = file.Read(file.Names[0]);
            }

            Directory.GetFiles(folder.Path).ShouldBe([path]);
            if (committed)
            {
                k.ShouldBeGreaterThan(6);
                break;
            }
        }
    }

    [Fact]
    public void A_disk_that_is_really_full_gets_a_sentence()
    {
        Assert.SkipUnless(File.Exists("/dev/full"), "needs /dev/full");
        using var folder = new TemporaryFolder();
        var layer = new OnDevFull();
        string message = Should.Throw<EspalierException>(() => AtomicFile.Write(folder["x.txt"], s => s.Write(new byte[1 << 20]), layer)).Message;
        message.ShouldContain("not enough room");
    }

    [Fact]
    public void A_file_larger_than_the_disk_is_refused_before_the_work()
    {
        using var folder = new TemporaryFolder();
        TensorInfo[] huge = [ElementTypes.Plan("w", ScalarType.Float32, 1L << 42)];
        string message = Should.Throw<EspalierException>(() => SafeTensorsWriter.Create(folder["h.safetensors"], huge).Dispose()).Message;
        message.ShouldContain("h.safetensors");
        Directory.GetFiles(folder.Path).ShouldBeEmpty();
    }

    [Theory]
    [InlineData("permission")]
    [InlineData("read-only")]
    public void A_folder_that_may_not_be_written_gets_a_sentence(string kind)
    {
        using var folder = new TemporaryFolder();
        var layer = new FailingFileLayer(0, () => kind == "permission" ? new UnauthorizedAccessException("denied") : new IOException("read-only", 30));
        Should.Throw<EspalierException>(() => SafeTensorsWriter.Create(folder["a.safetensors"], Plan, null, layer)).Message.ShouldContain(kind);
    }

    [Fact]
    public void A_folder_that_is_a_file_and_a_target_that_is_a_folder_get_sentences()
    {
        using var folder = new TemporaryFolder();
        File.WriteAllText(folder["file"], "x");
        Should.Throw<EspalierException>(() => SafeTensorsWriter.Create(Path.Combine(folder["file"], "a.safetensors"), Plan));
        Directory.CreateDirectory(folder["sub.safetensors"]);
        Should.Throw<EspalierException>(() => SafeTensorsWriter.Create(folder["sub.safetensors"], Plan)).Message.ShouldContain("is a folder");
    }

    [Fact]
    public void A_folder_without_write_permission_gets_a_sentence()
    {
        Assert.SkipWhen(Environment.UserName == "root", "permissions do not bind this user");
        if (OperatingSystem.IsWindows())
        {
            Assert.Skip("permissions are set otherwise there");
            return;
        }

        using var folder = new TemporaryFolder();
        File.SetUnixFileMode(folder.Path, UnixFileMode.UserRead | UnixFileMode.UserExecute);
        Should.Throw<EspalierException>(() => SafeTensorsWriter.Create(folder["a.safetensors"], Plan)).Message.ShouldContain("permission");
        File.SetUnixFileMode(folder.Path, UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.UserExecute);
    }

    [Fact]
    public void Misuse_gets_sentences()
    {
        using var folder = new TemporaryFolder();
        using var scope = NewDisposeScope();
        Should.Throw<EspalierException>(() => SafeTensorsWriter.Create(folder["a.safetensors"], [Plan[0], Plan[0]])).Message.ShouldContain("twice");
        Should.Throw<EspalierException>(() => SafeTensorsWriter.Create(folder["a.safetensors"], [ElementTypes.Plan("__metadata__", "U8", 1)]));
        Should.Throw<EspalierException>(() => SafeTensorsWriter.Create(folder["a.safetensors"], [new TensorInfo("w", "F32", [2], 4)])).Message.ShouldContain("4 bytes");
        Should.Throw<EspalierException>(() => ElementTypes.Plan("w", "F31", 1)).Message.ShouldContain("F31");
        Should.Throw<EspalierException>(() => ElementTypes.Plan("w", "F32", -1)).Message.ShouldContain("'w'");
        using var writer = SafeTensorsWriter.Create(folder["a.safetensors"], [.. Plan, ElementTypes.Plan("f8", "F8_E4M3", 2)]);
        Should.Throw<EspalierException>(() => writer.Write("nobody", ones(1))).Message.ShouldContain("not planned");
        Should.Throw<EspalierException>(() => writer.Write("w", ones(4))).Message.ShouldContain("[2, 2]");
        Should.Throw<EspalierException>(() => writer.WriteBytes("flags", [1])).Message.ShouldContain("3 were planned");
        Should.Throw<EspalierException>(() => writer.Write("f8", ones(2))).Message.ShouldContain("uint8");
        writer.Write("w", ones(2, 2));
        Should.Throw<EspalierException>(() => writer.Write("w", ones(2, 2))).Message.ShouldContain("twice");
        Should.Throw<EspalierException>(writer.Commit).Message.ShouldContain("3 planned tensors");
    }

    [Fact]
    public void What_a_killed_writer_left_is_removed_by_the_next_but_a_living_ones_is_not()
    {
        using var folder = new TemporaryFolder();
        using var scope = NewDisposeScope();
        string path = folder["a.safetensors"];
        string killed = PendingFile.NameFor(path);
        File.WriteAllText(killed, "half a file");
        File.SetLastWriteTimeUtc(killed, DateTime.UtcNow.AddMinutes(-5));
        using var living = SafeTensorsWriter.Create(path, Plan);
        File.Exists(killed).ShouldBeFalse();
        string alive = Directory.GetFiles(folder.Path, ".*").Single();
        File.SetLastWriteTimeUtc(alive, DateTime.UtcNow.AddMinutes(-5));
        SafeTensorsFile.Save(path, [("w", ones(1))]);
        File.Exists(alive).ShouldBeTrue();
    }

    [Fact]
    public void Text_is_written_whole_or_not_at_all()
    {
        using var folder = new TemporaryFolder();
        string path = Path.Combine(folder["sub"], "t.txt");
        AtomicFile.WriteText(path, "öld");
        File.ReadAllBytes(path).ShouldBe(Encoding.UTF8.GetBytes("öld"));
        Should.Throw<InvalidOperationException>(() => AtomicFile.Write(path, stream =>
        {
            stream.WriteByte(1);
            throw new InvalidOperationException();
        }));
        File.ReadAllText(path).ShouldBe("öld");
        Directory.GetFiles(folder["sub"]).Length.ShouldBe(1);
    }

    private sealed class OnDevFull : IFileLayer
    {
        public Stream Create(string path, long length) => new FileStream("/dev/full", FileMode.Open, FileAccess.Write);

        public void Flush(Stream stream) => stream.Flush();

        public void Replace(string from, string to) => throw new InvalidOperationException();

        public void Link(string existing, string name) => throw new InvalidOperationException();

        public void Delete(string path)
        {
        }

        public void SyncFolder(string folder)
        {
        }
    }
}
