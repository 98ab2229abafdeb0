using System.Globalization;
using System.Security.Cryptography;
using System.Text;
using Espalier.Checkpoints;
using Espalier.Data;
using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Training.Jobs;

/// <summary>A folder of trainings for any number of processes, on any number of machines that see it: image sets, and a folder for each job.</summary>
internal sealed class WorkFolder
{
    private const string Marker = "espalier-work.json", Format = "{\"format\": \"espalier-work-1\"}\n", JobPrefix = "job-", ImagePrefix = "images-";

    private readonly TimeSpan _ahead;

    private WorkFolder(string path, TimeSpan? patience)
    {
        (Path, Patience) = (path, patience ?? TimeSpan.FromSeconds(60));
        _ahead = ClockAhead(path);
    }

    public string Path { get; }

    /// <summary>How long a claim that is not renewed is left alone. Default 60 s.</summary>
    public TimeSpan Patience { get; }

    /// <summary>The time by the clock of the file system, which stamps the claims of all machines.</summary>
    public DateTime Now => DateTime.UtcNow + _ahead;

    /// <summary>The jobs in the order in which they were offered.</summary>
    public IEnumerable<JobFolder> Jobs => Directory.Exists(Path)
        ? Directory.GetDirectories(Path, $"{JobPrefix}*").Order(StringComparer.Ordinal).Select(p => new JobFolder(p))
        : [];

    /// <summary>Whether a folder is one, with jobs in it.</summary>
    public static bool HasJobs(string path) => Exists(path) && Directory.EnumerateDirectories(path, $"{JobPrefix}*").Any();

    /// <summary>Whether a folder is one.</summary>
    public static bool Exists(string path) => File.Exists(System.IO.Path.Combine(path, Marker));

    /// <summary>Makes a folder one.</summary>
    /// <exception cref="EspalierException">When it cannot be written.</exception>
    public static WorkFolder Create(string path, TimeSpan? patience = null)
    {
        AtomicFile.WriteText(System.IO.Path.Combine(path, Marker), Format);
        return new WorkFolder(path, patience);
    }

    /// <summary>Opens one.</summary>
    /// <exception cref="EspalierException">When it is none.</exception>
    public static WorkFolder Open(string path, TimeSpan? patience = null)
    {
        EspalierException.Require(Exists(path), $"{path} is no folder of trainings; `espalier train --method … --workers N --work-folder {path}` makes one.");
        EspalierException.Require(File.ReadAllText(System.IO.Path.Combine(path, Marker)) == Format, $"{path} was made by another version of espalier; use the same version everywhere.");
        return new WorkFolder(path, patience);
    }

    /// <summary>The folder of a job: that of an earlier run where it has the same content, else a new one.</summary>
    /// <param name="description">What the job says.</param>
    /// <param name="content">Digests of its net and masks.</param>
    /// <param name="taken">Names that are not to be had.</param>
    public JobFolder For(JobDescription description, string content, IReadOnlySet<string> taken)
    {
        string hash = Hash(description.ToJson() + content);
        string[] names = [.. Jobs.Select(j => j.Name)];
        string? known = names.FirstOrDefault(n => n.EndsWith($"-{hash}", StringComparison.Ordinal) && !taken.Contains(n));
        int next = 1 + names.Select(n => int.TryParse(n.Split('-')[1], NumberStyles.None, CultureInfo.InvariantCulture, out int number) ? number : 0).DefaultIfEmpty(0).Max();
        return new JobFolder(System.IO.Path.Combine(Path, known ?? string.Create(CultureInfo.InvariantCulture, $"{JobPrefix}{next:000000}-{hash}")));
    }

    /// <summary>Writes an image set once, and gives its name.</summary>
    public string Keep(ImageTensors images)
    {
        string name = Hash($"{images.Name} {string.Join(',', images.Images.shape)} {TensorDigest.Of([images.Images, images.Labels])}");
        string path = ImagePath(name);
        if (!File.Exists(path))
        {
            SafeTensorsFile.Save(path, [("images", images.Images), ("labels", images.Labels)], new Dictionary<string, string> { ["name"] = images.Name });
        }

        return name;
    }

    /// <summary>Reads an image set.</summary>
    /// <exception cref="EspalierException">When it is missing or damaged.</exception>
    public ImageTensors Images(string name)
    {
        EspalierException.Require(name.Length > 0 && name.All(char.IsAsciiHexDigit), $"'{name}' is no name of images in {Path}; the job is damaged.");
        using SafeTensorsFile file = SafeTensorsFile.Open(ImagePath(name));
        using var scope = NewDisposeScope();
        return new ImageTensors(file.Metadata.GetValueOrDefault("name", name), file.Read("images"), file.Read("labels"));
    }

    /// <summary>Removes jobs and images; the folder stays one, for the next run.</summary>
    public void Clear()
    {
        foreach (JobFolder job in Jobs)
        {
            job.Delete();
        }

        foreach (string images in Directory.EnumerateFiles(Path, $"{ImagePrefix}*.safetensors"))
        {
            File.Delete(images);
        }
    }

    private static string Hash(string text) => Convert.ToHexStringLower(SHA256.HashData(Encoding.UTF8.GetBytes(text)))[..16];

    private static TimeSpan ClockAhead(string folder)
    {
        string probe = System.IO.Path.Combine(folder, $".clock-{Guid.NewGuid():N}");
        try
        {
            File.WriteAllText(probe, "");
            TimeSpan ahead = File.GetLastWriteTimeUtc(probe) - DateTime.UtcNow;
            File.Delete(probe);
            return ahead;
        }
        catch (Exception fault) when (WriteFault.IsOne(fault))
        {
            throw WriteFault.For(folder, fault);
        }
    }

    private string ImagePath(string name) => System.IO.Path.Combine(Path, $"{ImagePrefix}{name}.safetensors");
}
