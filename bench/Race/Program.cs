using System.Globalization;
using System.Text.Json;
using Espalier.Data;
using Espalier.Race;
using Espalier.Runtime;
using Espalier.Sparsity.Packed;

// The parts of bench/race.py that are ours: "serve FOLDER|none" answers measurements line by line, "windows FOLDER TEXT COUNT LENGTH JSON" cuts a text, "bytes FILE" says what a token reads
// of a model, "kernels" which are in use, "report JSON HTML" draws the page.
switch (args)
{
    case ["serve", var model]:
        using (var worker = new Worker(model == "none" ? null : model))
        {
            worker.Serve();
        }

        return 0;
    case ["windows", var folder, var text, var count, var length, var to]:
        NativeLibraries.EnsureLoaded();
        File.WriteAllText(to, JsonSerializer.Serialize(TokenWindows.ForPerplexity(
            TextDataset.Open(DataReference.Parse(text)), Tokenizer.Load(folder), int.Parse(length, CultureInfo.InvariantCulture), int.Parse(count, CultureInfo.InvariantCulture))));
        return 0;
    case ["bytes", var path]:
        Console.WriteLine(TokenBytes.Of(path));
        return 0;
    case ["kernels"]:
        Console.WriteLine(PackedKernels.WordOf(PackedKernels.Current));
        return 0;
    case ["report", var json, var html]:
        RacePage.Make(json).Save(html);
        return 0;
    default:
        Console.Error.WriteLine("Usage: Race serve FOLDER|none, Race windows FOLDER TEXT COUNT LENGTH JSON, Race bytes FILE.gguf|FOLDER, Race kernels, or Race report race.json race.html.");
        return 2;
}
