using System.Reflection;
using System.Runtime.ExceptionServices;
using System.Text.Json;
using Espalier.Runtime;

namespace Espalier.Catalogue;

/// <summary>
/// The list of published systems joined with the classes that carry them: the one registry behind plans, the command
/// line, the studio and the docs.
/// </summary>
public sealed class MethodCatalogue
{
    private static readonly Lazy<MethodCatalogue> Shared = new(() => new MethodCatalogue(OwnAssemblies()));

    private readonly Dictionary<string, CatalogueEntry> _bySlug;

    /// <summary>Joins the published list with the classes of some assemblies.</summary>
    /// <param name="assemblies">Where to look for classes that carry <see cref="MethodAttribute"/>.</param>
    /// <exception cref="EspalierException">When two classes claim the same slug.</exception>
    public MethodCatalogue(IEnumerable<Assembly> assemblies)
    {
        var built = new Dictionary<string, (MethodAttribute Method, Type Type)>(StringComparer.Ordinal);
        foreach (Type type in assemblies.Distinct().SelectMany(TypesOf))
        {
            if (type.GetCustomAttribute<MethodAttribute>() is { } method)
            {
                EspalierException.Require(built.TryAdd(method.Slug, (method, type)),
                    $"Two classes claim the slug '{method.Slug}': {built.GetValueOrDefault(method.Slug).Type} and {type}; give one of them another.");
            }
        }

        var entries = new List<CatalogueEntry>();
        foreach ((string slug, string title, string family) in ReadList())
        {
            entries.Add(built.Remove(slug, out var carrier)
                ? Built(carrier.Method, carrier.Type, title, family, listed: true)
                : new CatalogueEntry(slug, title, family, MethodState.NotYet, "", "", "", Listed: true, Implementation: null));
        }

        // Baselines that the published systems are measured against stand behind them.
        entries.AddRange(built.Values.OrderBy(b => b.Method.Slug, StringComparer.Ordinal).Select(b => Built(b.Method, b.Type, b.Method.Title, b.Method.Family, listed: false)));
        Entries = entries;
        _bySlug = entries.ToDictionary(e => e.Slug, StringComparer.OrdinalIgnoreCase);
    }

    /// <summary>The catalogue of this program: the library, the recipes and whatever else of Espalier is loaded.</summary>
    public static MethodCatalogue Default => Shared.Value;

    /// <summary>Every system: the published list in its order, then the baselines by slug.</summary>
    public IReadOnlyList<CatalogueEntry> Entries { get; }

    /// <summary>The entry of a slug, whatever its capitals.</summary>
    /// <exception cref="EspalierException">For an unknown slug, with the nearest one.</exception>
    public CatalogueEntry this[string slug] => _bySlug.TryGetValue(slug, out CatalogueEntry? entry)
        ? entry
        : throw new EspalierException($"The catalogue has no system '{slug}'; `espalier methods` lists all {Entries.Count}.{NearestWord.Suggest(slug, _bySlug.Keys)}");

    /// <summary>The entries that contain every word of a text, in slug, title, family, summary, source or fits; the best matches first.</summary>
    /// <param name="words">Words apart by spaces; none gives all entries.</param>
    public IReadOnlyList<CatalogueEntry> Search(string words)
    {
        string[] wanted = words.Split(' ', StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries);
        return [.. Entries
            .Where(e => wanted.All(w => Text(e).Contains(w, StringComparison.OrdinalIgnoreCase)))
            .OrderBy(e => wanted.Any(w => e.Slug.Equals(w, StringComparison.OrdinalIgnoreCase)) ? 0
                : wanted.Any(w => e.Slug.Contains(w, StringComparison.OrdinalIgnoreCase)) ? 1
                : wanted.All(w => e.Title.Contains(w, StringComparison.OrdinalIgnoreCase)) ? 2 : 3)];
    }

    /// <summary>The built systems that supply a part of a plan (every criterion, every repair).</summary>
    /// <typeparam name="T">The part's contract.</typeparam>
    public IReadOnlyList<CatalogueEntry> Supplying<T>() => Supplying([typeof(T)]);

    private IReadOnlyList<CatalogueEntry> Supplying(Type[] contracts) =>
        [.. Entries.Where(e => e.Implementation is { IsAbstract: false } type && contracts.Any(type.IsAssignableTo))];

    /// <summary>Makes the system of a slug as a part of a plan.</summary>
    /// <typeparam name="T">The part's contract (a criterion, a repair).</typeparam>
    /// <param name="slug">The word for it.</param>
    /// <param name="options">Its options by name, as YAML or the command line give them; null for the paper's defaults.</param>
    /// <param name="also">Other contracts that may stand in the same place of a plan: their systems are listed as possible too.</param>
    /// <exception cref="EspalierException">For an unknown slug, a system that is another kind of part, or a wrong option; the sentence lists what is possible.</exception>
    public T Create<T>(string slug, IReadOnlyDictionary<string, object?>? options = null, params Type[] also)
        where T : class
    {
        IEnumerable<string> Slugs() => Supplying([typeof(T), .. also]).Select(e => e.Slug).Order(StringComparer.Ordinal);
        string Known() => string.Join(", ", Slugs());
        if (!_bySlug.TryGetValue(slug, out CatalogueEntry? entry))
        {
            throw new EspalierException($"'{slug}' is no {Part<T>()}; known are: {Known()}.{NearestWord.Suggest(slug, Slugs())}");
        }

        EspalierException.Require(entry.State is MethodState.Built, $"'{slug}' ({entry.Title}) is in the catalogue but not built yet; as {Part<T>()} use one of: {Known()}.");
        EspalierException.Require(entry.Implementation is { IsAbstract: false } type && type.IsAssignableTo(typeof(T)),
            $"'{slug}' is no {Part<T>()} (it fits: {entry.Fits}); use one of: {Known()}.");
        return (T)Construct(entry, options ?? new Dictionary<string, object?>());
    }

    /// <summary>
    /// A system either has its options as settable properties or takes one options record as the only parameter of its constructor.
    /// </summary>
    private static object Construct(CatalogueEntry entry, IReadOnlyDictionary<string, object?> options)
    {
        Type type = entry.Implementation!;
        if (type.GetConstructor(Type.EmptyTypes) is not null)
        {
            return OptionsBinder.Bind(type, options, entry.Slug);
        }

        ConstructorInfo constructor = type.GetConstructors().FirstOrDefault(c => c.GetParameters().Length == 1)
            ?? throw new EspalierException($"'{entry.Slug}' cannot be made from options alone; make a {type.Name} in C#.");
        try
        {
            return constructor.Invoke([OptionsBinder.Bind(constructor.GetParameters()[0].ParameterType, options, entry.Slug)]);
        }
        catch (TargetInvocationException fault) when (fault.InnerException is { } inner)
        {
            ExceptionDispatchInfo.Throw(inner);
            throw;
        }
    }

    private static CatalogueEntry Built(MethodAttribute method, Type type, string title, string family, bool listed) =>
        new(method.Slug, title, family, MethodState.Built, method.Summary, method.Source, method.Fits, listed, type);

    private static string Text(CatalogueEntry e) => $"{e.Slug}\n{e.Title}\n{e.Family}\n{e.Summary}\n{e.Source}\n{e.Fits}";

    // ICriterion -> "criterion", IJointPruner -> "joint pruner".
    private static string Part<T>()
    {
        string name = typeof(T).Name;
        string bare = name.Length > 1 && name[0] == 'I' && char.IsUpper(name[1]) ? name[1..] : name;
        return string.Concat(bare.Select((c, i) => char.IsUpper(c) ? (i == 0 ? "" : " ") + char.ToLowerInvariant(c) : c.ToString()));
    }

    private static IEnumerable<(string Slug, string Title, string Family)> ReadList()
    {
        using Stream stream = typeof(MethodCatalogue).Assembly.GetManifestResourceStream("Espalier.Catalogue.catalogue.json")!;
        using JsonDocument list = JsonDocument.Parse(stream);
        return [.. list.RootElement.EnumerateArray().Select(e =>
            (e.GetProperty("slug").GetString()!, e.GetProperty("title").GetString()!, e.GetProperty("family").GetString()!))];
    }

    /// <summary>The types of an assembly; those whose dependencies a program left out are passed over.</summary>
    internal static IEnumerable<Type> TypesOf(Assembly assembly)
    {
        try
        {
            return assembly.GetTypes();
        }
        catch (ReflectionTypeLoadException partial)
        {
            return partial.Types.OfType<Type>();
        }
    }

    /// <summary>The assemblies of Espalier in this program; recipes may not have been touched yet and are loaded by name.</summary>
    internal static IReadOnlyList<Assembly> OwnAssemblies()
    {
        try
        {
            Assembly.Load("Espalier.Recipes");
        }
        catch (FileNotFoundException)
        {
            // A program that uses the library alone has no recipes.
        }

        return [.. AppDomain.CurrentDomain.GetAssemblies().Where(a => !a.IsDynamic && a.GetName().Name?.StartsWith("Espalier", StringComparison.Ordinal) == true)
            .OrderBy(a => a.GetName().Name, StringComparer.Ordinal)];
    }
}
