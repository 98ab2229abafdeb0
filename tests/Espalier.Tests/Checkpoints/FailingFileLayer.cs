using Espalier.Checkpoints;

namespace Espalier.Tests.Checkpoints;

/// <summary>A file system that refuses its k-th call and every later one, as a disk that is full or a machine that has died does.</summary>
/// <param name="failAt">The call that fails, counted from 0; a large number never fails.</param>
/// <param name="fault">What it says.</param>
/// <param name="dead">Whether nothing works afterwards, so that not even the clean-up happens.</param>
internal sealed class FailingFileLayer(int failAt, Func<Exception> fault, bool dead = false) : IFileLayer
{
    private const int NoSpace = 28;

    /// <summary>How many calls were made.</summary>
    public int Calls { get; private set; }

    /// <summary>What a full disk says on Linux.</summary>
    public static Exception DiskFull() => new IOException("No space left on device", NoSpace);

    public Stream Create(string path, long length)
    {
        Count();
        return new Wrapped(this, FileSystem.Instance.Create(path, 0));
    }

    public void Flush(Stream stream)
    {
        Count();
        stream.Flush();
    }

    public void Replace(string from, string to)
    {
        Count();
        FileSystem.Instance.Replace(from, to);
    }

    public void Link(string existing, string name)
    {
        Count();
        FileSystem.Instance.Link(existing, name);
    }

    public void Delete(string path)
    {
        if (dead)
        {
            Count();
        }

        FileSystem.Instance.Delete(path);
    }

    public void SyncFolder(string folder) => Count();

    private void Count()
    {
        if (Calls++ >= failAt)
        {
            throw fault();
        }
    }

    private sealed class Wrapped(FailingFileLayer layer, Stream inner) : Stream
    {
        public override bool CanRead => false;

        public override bool CanSeek => true;

        public override bool CanWrite => true;

        public override long Length => inner.Length;

        public override long Position
        {
            get => inner.Position;
            set => inner.Position = value;
        }

        public override void Flush() => inner.Flush();

        public override int Read(byte[] buffer, int offset, int count) => throw new NotSupportedException();

        public override long Seek(long offset, SeekOrigin origin) => inner.Seek(offset, origin);

        public override void SetLength(long value)
        {
            layer.Count();
            inner.SetLength(value);
        }

        public override void Write(byte[] buffer, int offset, int count) => Write(buffer.AsSpan(offset, count));

        public override void Write(ReadOnlySpan<byte> buffer)
        {
            // The write that fails is torn: half of it arrives.
            if (layer.Calls >= layer.FailAt)
            {
                inner.Write(buffer[..(buffer.Length / 2)]);
            }

            layer.Count();
            inner.Write(buffer);
        }

        protected override void Dispose(bool disposing) => inner.Dispose();
    }

    private int FailAt => failAt;
}
