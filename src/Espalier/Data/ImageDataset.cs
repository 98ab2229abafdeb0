using Espalier.Runtime;

namespace Espalier.Data;

/// <summary>An image and its class.</summary>
/// <param name="Bytes">The encoded file (PNG, JPEG), or the grey values row by row where <paramref name="GreySize"/> is set.</param>
/// <param name="Label">The class, from 0.</param>
/// <param name="GreySize">Height and width of an image that is not encoded; null for an encoded one.</param>
public sealed record LabelledImage(ReadOnlyMemory<byte> Bytes, int Label, (int Height, int Width)? GreySize = null);

/// <summary>Images with classes, from parquet (as on the hub), idx files (MNIST and its kin) or a folder per class, read lazily; <see cref="ImageTensors"/> decodes them.</summary>
public sealed class ImageDataset
{
    private readonly Func<IEnumerable<LabelledImage>> read;

    private ImageDataset(string name, long count, Func<IEnumerable<LabelledImage>> read)
    {
        Name = name;
        Count = count;
        this.read = read;
    }

    /// <summary>What the data set is called, as its user wrote it.</summary>
    public string Name { get; }

    /// <summary>How many images it has.</summary>
    public long Count { get; }

    /// <summary>The images in the order of the files, anew for each enumeration.</summary>
    /// <exception cref="EspalierException">While enumerating, when a file is damaged or a row has no image or class.</exception>
    public IEnumerable<LabelledImage> Images => read();

    /// <summary>Opens the data set that a reference names.</summary>
    /// <param name="reference">What the user wrote; its column is that of the images.</param>
    /// <param name="resolveHubDataset">From a hub id to the folder of its snapshot; null when only files are allowed.</param>
    /// <param name="labelColumn">The column of the class; null where no classes are wanted: folders may then hold images as they like, and every image has the class 0.</param>
    /// <exception cref="EspalierException">When files, split or columns are missing; names those there are.</exception>
    public static ImageDataset Open(DataReference reference, Func<string, string>? resolveHubDataset = null, string? labelColumn = "label")
    {
        string root = DataFiles.Root(reference, resolveHubDataset);
        if (Directory.Exists(root) && Directory.EnumerateFiles(root).Where(IsIdxImages).Order(StringComparer.Ordinal).ToArray() is { Length: > 0 } idx)
        {
            return OpenIdx(reference, idx);
        }

        if (labelColumn is null && Directory.Exists(root) && ImageFolders.All(root, reference.Split) is { } files)
        {
            return new ImageDataset(reference.ToString(), files.Count, () => files.Select(f => new LabelledImage(File.ReadAllBytes(f), 0)));
        }

        if (labelColumn is not null && Directory.Exists(root) && ImageFolders.Find(root, reference.Split) is { } folders)
        {
            return new ImageDataset(reference.ToString(), folders.Count, () => folders.Select(f => new LabelledImage(File.ReadAllBytes(f.Path), f.Label)));
        }

        ParquetTable[] tables = [.. DataFiles.Find(reference, resolveHubDataset, [".parquet"]).Select(ParquetTable.Open)];
        string[] columns = [.. tables.Select(t => ImageColumn(t, reference.Column))];
        foreach (ParquetTable table in labelColumn is null ? [] : tables)
        {
            EspalierException.Require(table.Find(labelColumn!).Kind == ColumnKind.Integer, $"The column \"{labelColumn}\" of \"{table.Path}\" holds no classes; {table.Listing()}.");
        }

        return new ImageDataset(reference.ToString(), tables.Sum(t => t.RowCount), () => tables.Zip(columns).SelectMany(t => Rows(t.First, t.Second, labelColumn)));
    }

    /// <summary>The named column, else the only one of bytes. A struct of an image is named by itself ("img" for "img.bytes").</summary>
    private static string ImageColumn(ParquetTable table, string? named)
    {
        string[] found = [.. table.Columns.Where(c => c is { Kind: ColumnKind.Bytes, IsList: false } && (named is null || c.Name == named || c.Name == $"{named}.bytes")).Select(c => c.Name)];
        EspalierException.Require(found.Length == 1, $"{(named is null ? "Which column holds the images" : $"The image column \"{named}\"")} is not to be found in \"{table.Path}\"; {table.Listing()}: name a column of Bytes.");
        return found[0];
    }

    private static IEnumerable<LabelledImage> Rows(ParquetTable table, string column, string? labelColumn)
    {
        int row = 0;
        foreach (var (bytes, label) in table.Bytes(column).Zip(labelColumn is null ? Enumerable.Repeat((long?)0, (int)table.RowCount) : table.Integers(labelColumn)))
        {
            row++;
            EspalierException.Require(bytes is { Length: > 0 }, $"Row {row} of \"{table.Path}\" has no image in \"{column}\".");
            yield return new LabelledImage(bytes, Class(table.Path, row, label));
        }
    }

    private static int Class(string path, int row, long? label) => label is { } value and >= 0 and <= int.MaxValue
        ? (int)value
        : throw new EspalierException($"Row {row} of \"{path}\" has the class {label?.ToString() ?? "(none)"}; classes are counted from 0.");

    private static ImageDataset OpenIdx(DataReference reference, string[] imageFiles)
    {
        string[] splits = [.. imageFiles.Select(SplitOf)];
        string wanted = reference.Split ?? (splits.Distinct().Count() == 1 ? splits[0] : "");
        int chosen = Array.IndexOf(splits, wanted);
        EspalierException.Require(chosen >= 0, $"The data set \"{reference.Source}\" has {(reference.Split is null ? "several splits" : $"no split \"{wanted}\"")}; it has {string.Join(", ", splits.Distinct())}: name one.");
        IdxFile images = IdxFile.Read(imageFiles[chosen]);
        IdxFile labels = IdxFile.Read(LabelsOf(imageFiles[chosen]));
        EspalierException.Require(images.Shape.Count == 3 && labels.Shape.Count == 1, $"\"{images.Path}\" and \"{labels.Path}\" are no images with labels: they have {images.Shape.Count} and {labels.Shape.Count} dimensions, not 3 and 1.");
        EspalierException.Require(images.Shape[0] == labels.Shape[0], $"\"{images.Path}\" has {images.Shape[0]} images, but \"{labels.Path}\" {labels.Shape[0]} labels: they do not belong together.");
        (int height, int width) = (images.Shape[1], images.Shape[2]);
        int size = height * width;
        return new ImageDataset(reference.ToString(), images.Shape[0], () => Enumerable.Range(0, images.Shape[0])
            .Select(i => new LabelledImage(images.Values.Slice(i * size, size), labels.Values.Span[i], (height, width))));
    }

    private static bool IsIdxImages(string path) => Path.GetFileName(path).Contains("idx3-ubyte", StringComparison.Ordinal);

    /// <summary>MNIST calls its test split by its size.</summary>
    private static string SplitOf(string path) => Path.GetFileName(path).Split('-')[0] is var prefix && prefix == "t10k" ? "test" : prefix;

    private static string LabelsOf(string images)
    {
        string name = Path.GetFileName(images).Replace("images", "labels", StringComparison.Ordinal).Replace("idx3", "idx1", StringComparison.Ordinal);
        string plain = Path.Combine(Path.GetDirectoryName(images)!, name);
        string? found = new[] { plain, plain + ".gz", plain.EndsWith(".gz", StringComparison.Ordinal) ? plain[..^3] : plain }.FirstOrDefault(File.Exists);
        return found ?? throw new EspalierException($"Beside \"{images}\" there are no labels \"{name}\".");
    }
}
