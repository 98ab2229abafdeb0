using Espalier.Race;

// The parts of bench/race.py that are ours: "serve FOLDER|none" answers measurements line by line, "bytes FILE" says what a token reads
// of a model, "report JSON HTML" draws the page.
switch (args)
{
    case ["serve", var model]:
        using (var worker = new Worker(model == "none" ? null : model))
        {
            worker.Serve();
        }

        return 0;
    case ["bytes", var path]:
        Console.WriteLine(TokenBytes.Of(path));
        return 0;
    case ["report", var json, var html]:
        RacePage.Make(json).Save(html);
        return 0;
    default:
        Console.Error.WriteLine("Usage: Race serve FOLDER|none, Race bytes FILE.gguf|FOLDER, or Race report race.json race.html.");
        return 2;
}
