using Espalier.Runtime;
using Npgsql;

namespace Espalier.Runs;

/// <summary>The address form of a connection string, as psql and most programs take it.</summary>
internal static class PostgresAddress
{
    public static string ToConnectionString(string address)
    {
        EspalierException.Require(Uri.TryCreate(address, UriKind.Absolute, out Uri? uri) && uri.AbsolutePath.Length > 1,
            $"The address of the run store is no address of a database; write postgresql://user:password@host:port/database in {RunLocation.Variable}.");
        string[] user = uri.UserInfo.Split(':', 2);
        var builder = new NpgsqlConnectionStringBuilder { Database = Uri.UnescapeDataString(uri.AbsolutePath[1..]) };
        if (uri.Host.Length > 0)
        {
            builder.Host = uri.Host;
        }

        if (uri.Port > 0)
        {
            builder.Port = uri.Port;
        }

        if (user[0].Length > 0)
        {
            builder.Username = Uri.UnescapeDataString(user[0]);
        }

        if (user.Length > 1)
        {
            builder.Password = Uri.UnescapeDataString(user[1]);
        }

        foreach (string pair in uri.Query.TrimStart('?').Split('&', StringSplitOptions.RemoveEmptyEntries))
        {
            string[] parts = pair.Split('=', 2);
            string name = Uri.UnescapeDataString(parts[0]), value = parts.Length > 1 ? Uri.UnescapeDataString(parts[1]) : "";
            try
            {
                builder[name is "sslmode" ? "SSL Mode" : name] = value.Replace("-", "", StringComparison.Ordinal) is var word && name is "sslmode" ? word : value;
            }
            catch (ArgumentException)
            {
                throw new EspalierException($"'{name}' in the address of the run store is no setting that Npgsql knows; take it out of {RunLocation.Variable}.");
            }
        }

        return builder.ConnectionString;
    }

    /// <summary>Host and database, without the password.</summary>
    public static string Describe(string connection)
    {
        var builder = new NpgsqlConnectionStringBuilder(connection);
        return $"postgresql://{builder.Host}:{builder.Port}/{builder.Database}";
    }
}
