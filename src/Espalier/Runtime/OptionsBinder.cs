using System.Collections;
using System.Globalization;
using System.Reflection;
using System.Runtime.ExceptionServices;
using System.Text.Json;
using System.Text.Json.Nodes;

namespace Espalier.Runtime;

/// <summary>
/// Fills an options record from names and values, the same way for YAML and for the command line.
/// </summary>
/// <remarks>
/// Names are matched whatever their spelling: <c>learning_rate</c>, <c>learning-rate</c> and <c>LearningRate</c> are one.
/// Values may be strings (the command line) or numbers, booleans, lists and nested maps (YAML). A property's own checks
/// run, so a record validates itself on construction. What is not named keeps its default.
/// </remarks>
public static class OptionsBinder
{
    /// <summary>Makes a <typeparamref name="T"/> from named values.</summary>
    /// <param name="values">Names and values.</param>
    /// <param name="owner">What the options belong to, for messages ("wanda"); the type's name when null.</param>
    /// <exception cref="EspalierException">For an unknown name (with the nearest known one), a value of the wrong kind or one that the record refuses.</exception>
    public static T Bind<T>(IReadOnlyDictionary<string, object?> values, string? owner = null) => (T)Bind(typeof(T), values, owner ?? typeof(T).Name);

    /// <summary>Makes an instance of <paramref name="type"/> from named values; see <see cref="Bind{T}"/>.</summary>
    public static object Bind(Type type, IReadOnlyDictionary<string, object?> values, string owner)
    {
        type = Nullable.GetUnderlyingType(type) ?? type;
        ConstructorInfo? constructor = type.GetConstructors().OrderBy(c => c.GetParameters().Length).FirstOrDefault();
        ParameterInfo[] parameters = constructor?.GetParameters() ?? [];
        PropertyInfo[] properties = [.. type.GetProperties(BindingFlags.Public | BindingFlags.Instance)
            .Where(p => p.SetMethod is { IsPublic: true } && p.GetIndexParameters().Length == 0 && !parameters.Any(c => Bare(c.Name!) == Bare(p.Name)))];
        Dictionary<string, object?> byName = Normalise(values, owner, [.. parameters.Select(p => p.Name!), .. properties.Select(p => p.Name)]);

        var arguments = new object?[parameters.Length];
        for (int i = 0; i < parameters.Length; i++)
        {
            ParameterInfo parameter = parameters[i];
            if (byName.TryGetValue(Bare(parameter.Name!), out object? value))
            {
                arguments[i] = Convert(value, parameter.ParameterType, $"{owner}.{Snake(parameter.Name!)}");
            }
            else
            {
                EspalierException.Require(parameter.HasDefaultValue, $"The option '{Snake(parameter.Name!)}' of {owner} is missing; it has no default.");
                arguments[i] = parameter.DefaultValue;
            }
        }

        object made = Unwrapped(() => constructor is null ? Activator.CreateInstance(type)! : constructor.Invoke(arguments));
        foreach (PropertyInfo property in properties)
        {
            if (byName.TryGetValue(Bare(property.Name), out object? value))
            {
                object? converted = Convert(value, property.PropertyType, $"{owner}.{Snake(property.Name)}");
                Unwrapped<object?>(() =>
                {
                    property.SetValue(made, converted);
                    return null;
                });
            }
            else
            {
                bool required = property.IsDefined(typeof(System.Runtime.CompilerServices.RequiredMemberAttribute));
                EspalierException.Require(!required, $"The option '{Snake(property.Name)}' of {owner} is missing; it has no default.");
            }
        }

        return made;
    }

    /// <summary>The names that <paramref name="type"/> takes, as YAML spells them.</summary>
    public static IReadOnlyList<string> Names(Type type) =>
        [.. type.GetProperties(BindingFlags.Public | BindingFlags.Instance).Where(p => p.SetMethod is { IsPublic: true }).Select(p => Snake(p.Name))];

    /// <summary>The options of an instance as words that <see cref="Bind(Type, IReadOnlyDictionary{string, object?}, string)"/> makes it of again; what is null is left out.</summary>
    /// <param name="options">A record of numbers, booleans, words, enumerations and lists of them.</param>
    public static JsonObject Words(object options)
    {
        var words = new JsonObject();
        foreach (PropertyInfo property in options.GetType().GetProperties(BindingFlags.Public | BindingFlags.Instance).Where(p => p.SetMethod is { IsPublic: true } && p.GetIndexParameters().Length == 0))
        {
            if (Word(property.GetValue(options)) is { } word)
            {
                words[Snake(property.Name)] = word;
            }
        }

        return words;
    }

    /// <summary>A value of JSON as the binder takes values: number, boolean, word, list.</summary>
    /// <param name="value">The value.</param>
    public static object? Plain(JsonNode? value) => value switch
    {
        null => null,
        JsonArray list => list.Select(Plain).ToArray(),
        JsonObject map => map.ToDictionary(m => m.Key, m => Plain(m.Value)),
        _ => value.GetValueKind() switch
        {
            JsonValueKind.String => value.GetValue<string>(),
            JsonValueKind.True or JsonValueKind.False => value.GetValue<bool>(),
            _ => value.GetValue<double>(),
        },
    };

    private static JsonNode? Word(object? value) => value switch
    {
        null => null,
        bool flag => JsonValue.Create(flag),
        int or long => JsonValue.Create(System.Convert.ToInt64(value, CultureInfo.InvariantCulture)),
        float or double => JsonValue.Create(System.Convert.ToDouble(value, CultureInfo.InvariantCulture)),
        string text => JsonValue.Create(text),
        Enum => JsonValue.Create(string.Join(",", value.ToString()!.Split(", ").Select(Snake))),
        IEnumerable list => new JsonArray([.. list.Cast<object?>().Select(Word)]),
        _ => Words(value) is { Count: > 0 } nested ? nested : JsonValue.Create(value.ToString()),
    };

    /// <summary>Turns one value into a type: a number, a word, a list, a nested map.</summary>
    /// <param name="value">What was written.</param>
    /// <param name="type">What is wanted.</param>
    /// <param name="where">The option's full name, for messages ("perp.rank").</param>
    /// <exception cref="EspalierException">When the value is of another kind.</exception>
    public static object? Convert(object? value, Type type, string where)
    {
        if (Nullable.GetUnderlyingType(type) is { } underlying)
        {
            return value is null or "" or "null" or "none" && !underlying.IsEnum ? null : value is null ? null : Convert(value, underlying, where);
        }

        if (value is null)
        {
            EspalierException.Require(!type.IsValueType, $"The option '{where}' has no value; give it {Kind(type)}.");
            return null;
        }

        if (type.IsInstanceOfType(value))
        {
            return value;
        }

        if (type.IsEnum)
        {
            return ConvertEnum(value, type, where);
        }

        if (ElementType(type) is { } element)
        {
            return ConvertList(value, element, where);
        }

        if (value is IDictionary map)
        {
            var nested = new Dictionary<string, object?>();
            foreach (DictionaryEntry entry in map)
            {
                nested[System.Convert.ToString(entry.Key, CultureInfo.InvariantCulture)!] = entry.Value;
            }

            return Bind(type, nested, where);
        }

        return ConvertScalar(value, type, where) ?? throw Wrong(value, type, where);
    }

    private static object? ConvertScalar(object value, Type type, string where)
    {
        string text = System.Convert.ToString(value, CultureInfo.InvariantCulture)!.Trim();
        CultureInfo invariant = CultureInfo.InvariantCulture;
        if (type == typeof(string))
        {
            return value is bool flag ? (flag ? "true" : "false") : text;
        }

        if (type == typeof(bool))
        {
            return text.ToLowerInvariant() switch { "true" or "yes" or "on" => true, "false" or "no" or "off" => false, _ => null };
        }

        if (type == typeof(double) || type == typeof(float))
        {
            return double.TryParse(text, NumberStyles.Float, invariant, out double number) ? System.Convert.ChangeType(number, type, invariant) : null;
        }

        if (type == typeof(long) || type == typeof(int))
        {
            // YAML writers put 1e3 and 200.0 for whole numbers; a share such as 0.5 is refused, not rounded.
            bool whole = double.TryParse(text, NumberStyles.Float, invariant, out double number) && number == Math.Floor(number) && Math.Abs(number) < 1L << 53;
            bool fits = type == typeof(long) || (number >= int.MinValue && number <= int.MaxValue);
            return !whole || !fits ? null : type == typeof(int) ? (int)number : (object)(long)number;
        }

        if (type.GetMethod("Parse", BindingFlags.Public | BindingFlags.Static, [typeof(string)]) is { } parse && parse.ReturnType == type)
        {
            return Unwrapped(() => parse.Invoke(null, [text]));
        }

        // A value that wraps one scalar, such as a seed.
        ConstructorInfo? wrapper = type.GetConstructors().FirstOrDefault(c => c.GetParameters().Length == 1 && c.GetParameters()[0].ParameterType.IsPrimitive);
        return wrapper is null ? null : Unwrapped(() => wrapper.Invoke([Convert(value, wrapper.GetParameters()[0].ParameterType, where)]));
    }

    private static object ConvertEnum(object value, Type type, string where)
    {
        bool flags = type.IsDefined(typeof(FlagsAttribute));
        IEnumerable<string> words = value is IEnumerable list and not string
            ? list.Cast<object?>().Select(o => System.Convert.ToString(o, CultureInfo.InvariantCulture) ?? "")
            : System.Convert.ToString(value, CultureInfo.InvariantCulture)!.Split([',', '+', '|', ' '], StringSplitOptions.RemoveEmptyEntries);
        string[] written = [.. words.Select(w => w.Trim())];
        EspalierException.Require(flags || written.Length == 1, $"The option '{where}' takes one of: {EnumWords(type)}.");
        long bits = 0;
        foreach (string word in written)
        {
            string? name = Enum.GetNames(type).FirstOrDefault(n => Bare(n) == Bare(word));
            EspalierException.Require(name is not null,
                $"'{word}' is no value of the option '{where}'; it takes {(flags ? "any of" : "one of")}: {EnumWords(type)}.{NearestWord.Suggest(word, Enum.GetNames(type).Select(Snake))}");
            bits |= System.Convert.ToInt64(Enum.Parse(type, name), CultureInfo.InvariantCulture);
        }

        return Enum.ToObject(type, bits);
    }

    private static Array ConvertList(object value, Type element, string where)
    {
        object?[] items = value is IEnumerable list and not string
            ? [.. list.Cast<object?>()]
            : [.. System.Convert.ToString(value, CultureInfo.InvariantCulture)!.Split(',', StringSplitOptions.TrimEntries | StringSplitOptions.RemoveEmptyEntries)];
        var made = Array.CreateInstance(element, items.Length);
        for (int i = 0; i < items.Length; i++)
        {
            made.SetValue(Convert(items[i], element, $"{where}[{i}]"), i);
        }

        return made;
    }

    private static Dictionary<string, object?> Normalise(IReadOnlyDictionary<string, object?> values, string owner, IReadOnlyList<string> known)
    {
        var byName = new Dictionary<string, object?>(StringComparer.Ordinal);
        foreach ((string name, object? value) in values)
        {
            EspalierException.Require(known.Any(k => Bare(k) == Bare(name)),
                known.Count == 0
                    ? $"'{name}' is no option of {owner}; it has no options."
                    : $"'{name}' is no option of {owner}; it has: {string.Join(", ", known.Select(Snake))}.{NearestWord.Suggest(name.Replace('-', '_'), known.Select(Snake))}");
            EspalierException.Require(byName.TryAdd(Bare(name), value), $"The option '{Snake(name)}' of {owner} is given twice; leave one of them out.");
        }

        return byName;
    }

    private static Type? ElementType(Type type) =>
        type.IsArray ? type.GetElementType()
        : type.IsGenericType && type.GetGenericTypeDefinition() is { } open && (open == typeof(IReadOnlyList<>) || open == typeof(IEnumerable<>) || open == typeof(IReadOnlyCollection<>))
            ? type.GetGenericArguments()[0] : null;

    private static EspalierException Wrong(object value, Type type, string where) =>
        new(string.Create(CultureInfo.InvariantCulture, $"The option '{where}' takes {Kind(type)}, not '{value}'."));

    private static string Kind(Type type) =>
        type == typeof(bool) ? "true or false"
        : type == typeof(int) || type == typeof(long) ? "a whole number"
        : type == typeof(float) || type == typeof(double) ? "a number"
        : type.IsEnum ? "one of: " + EnumWords(type)
        : ElementType(type) is not null ? "a list"
        : type == typeof(string) ? "a word" : "a group of options";

    private static string EnumWords(Type type) => string.Join(", ", Enum.GetNames(type).Select(Snake));

    private static string Bare(string name) => name.Replace("_", "").Replace("-", "").ToLowerInvariant();

    /// <summary>A name as YAML spells it: LearningRate is learning_rate.</summary>
    public static string Snake(string name) =>
        string.Concat(name.Select((c, i) => char.IsUpper(c) ? (i > 0 && name[i - 1] is not ('_' or '-') && !char.IsUpper(name[i - 1]) ? "_" : "") + char.ToLowerInvariant(c) : c == '-' ? "_" : c.ToString()));

    /// <summary>Reflection wraps what a property or constructor throws; the sentence inside is what the user must see.</summary>
    private static T Unwrapped<T>(Func<T> call)
    {
        try
        {
            return call();
        }
        catch (TargetInvocationException fault) when (fault.InnerException is { } inner)
        {
            ExceptionDispatchInfo.Throw(inner);
            throw;
        }
    }
}
