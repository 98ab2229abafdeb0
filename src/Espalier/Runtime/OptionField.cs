using System.Collections;
using System.Globalization;
using System.Reflection;

namespace Espalier.Runtime;

/// <summary>What kind of value an option takes.</summary>
public enum OptionKind
{
    /// <summary>Any number.</summary>
    Number,

    /// <summary>A whole number.</summary>
    Whole,

    /// <summary>Yes or no.</summary>
    Switch,

    /// <summary>One of some words.</summary>
    Choice,

    /// <summary>Several of some words.</summary>
    Choices,

    /// <summary>Text, or a list apart by commas.</summary>
    Text,
}

/// <summary>One option of a record, for forms that are made from it.</summary>
/// <param name="Name">Its name as YAML and the command line spell it.</param>
/// <param name="Kind">What it takes.</param>
/// <param name="Default">Its default in words; null where it has none.</param>
/// <param name="Choices">The words that are possible; empty where any are.</param>
/// <param name="Property">The property, for its documentation.</param>
public sealed record OptionField(string Name, OptionKind Kind, string? Default, IReadOnlyList<string> Choices, PropertyInfo Property)
{
    /// <summary>The options of a type, in its order: what <see cref="OptionsBinder"/> takes.</summary>
    /// <param name="type">A record of options.</param>
    public static IReadOnlyList<OptionField> Of(Type type)
    {
        object? defaults = type.GetConstructor(Type.EmptyTypes) is null || type.IsAbstract ? null : Activator.CreateInstance(type);
        return [.. type.GetProperties(BindingFlags.Public | BindingFlags.Instance).Where(p => p.SetMethod is { IsPublic: true } && p.GetIndexParameters().Length == 0)
            .Select(p => new OptionField(OptionsBinder.Snake(p.Name), KindOf(p.PropertyType), defaults is null ? null : Words(p.GetValue(defaults)), Possible(p.PropertyType), p))];
    }

    /// <summary>The options of a system of the catalogue: of its own properties, or of the record that its constructor takes.</summary>
    /// <param name="system">The class that carries it.</param>
    public static IReadOnlyList<OptionField> OfSystem(Type system) => system.GetConstructor(Type.EmptyTypes) is not null
        ? Of(system)
        : system.GetConstructors().FirstOrDefault(c => c.GetParameters().Length == 1) is { } constructor ? Of(constructor.GetParameters()[0].ParameterType) : [];

    private static OptionKind KindOf(Type type)
    {
        type = Nullable.GetUnderlyingType(type) ?? type;
        return type == typeof(bool) ? OptionKind.Switch
            : type == typeof(int) || type == typeof(long) ? OptionKind.Whole
            : type == typeof(double) || type == typeof(float) ? OptionKind.Number
            : type.IsEnum ? type.IsDefined(typeof(FlagsAttribute)) ? OptionKind.Choices : OptionKind.Choice
            : OptionKind.Text;
    }

    private static string[] Possible(Type type)
    {
        type = Nullable.GetUnderlyingType(type) ?? type;
        if (!type.IsEnum)
        {
            return [];
        }

        // Of flags only single ones: words for several or none are made of these.
        bool flags = type.IsDefined(typeof(FlagsAttribute));
        return [.. Enum.GetValues(type).Cast<object>().Where(v => !flags || System.Numerics.BitOperations.PopCount(Convert.ToUInt64(v, CultureInfo.InvariantCulture)) == 1).Select(v => OptionsBinder.Snake(v.ToString()!)).Distinct()];
    }

    private static string? Words(object? value) => value switch
    {
        null => null,
        bool flag => flag ? "true" : "false",
        Enum => string.Join(",", value.ToString()!.Split(", ").Select(OptionsBinder.Snake)),
        string text => text,
        IFormattable number => number.ToString(null, CultureInfo.InvariantCulture),
        IEnumerable list => string.Join(",", list.Cast<object?>().Select(Words)),
        _ => null,
    };
}
