using System.Data.Common;
using Microsoft.Data.Sqlite;
using Microsoft.EntityFrameworkCore;
using Microsoft.EntityFrameworkCore.Diagnostics;
using Npgsql;

namespace Espalier.Runs;

/// <summary>Makes the tables of a store, and brings those of an older version up to date.</summary>
internal static class StoreMigration
{
    /// <summary>The last migrations, which a store that is up to date names; a test compares them with those there are.</summary>
    internal const string LastOfSqlite = "20261127081907_First", LastOfPostgres = "20261127081916_First";

    // What EF Core keeps of migrations, read without it: to ask it costs every command the time to load it.
    private const string Newest = "SELECT MAX(\"MigrationId\") FROM \"__EFMigrationsHistory\"";

    private static readonly TimeSpan LongestWait = TimeSpan.FromSeconds(60);

    public static async Task SqliteAsync(Func<RunDatabase> open, string file, CancellationToken cancellation)
    {
        Directory.CreateDirectory(Path.GetDirectoryName(file)!);
        using (var connection = new SqliteConnection(RunStore.ConnectionOf(file)))
        {
            if (File.Exists(file) && await IsUpToDateAsync(connection, LastOfSqlite, cancellation).ConfigureAwait(false))
            {
                return;
            }
        }

        // EF Core's own lock for SQLite is a row that outlives a killed process and blocks the store for ever.
        // This one is a file that the system unlocks; whoever holds it knows that a row found is stale.
        using FileStream held = await LockAsync(file + ".lock", cancellation).ConfigureAwait(false);
        using RunDatabase writer = open();
        await writer.Database.ExecuteSqlRawAsync("PRAGMA journal_mode = WAL;", cancellation).ConfigureAwait(false);
        await writer.Database.ExecuteSqlRawAsync("DROP TABLE IF EXISTS \"__EFMigrationsLock\";", cancellation).ConfigureAwait(false);
        await writer.Database.MigrateAsync(cancellation).ConfigureAwait(false);
    }

    public static async Task PostgresAsync(Func<RunDatabase> open, string address, CancellationToken cancellation)
    {
        using (var connection = new NpgsqlConnection(address))
        {
            if (await IsUpToDateAsync(connection, LastOfPostgres, cancellation).ConfigureAwait(false))
            {
                return;
            }
        }

        for (int attempt = 1; ; attempt++)
        {
            using RunDatabase db = open();
            try
            {
                // Locks in the database, and the lock goes with the connection.
                await db.Database.MigrateAsync(cancellation).ConfigureAwait(false);
                return;
            }
            catch (PostgresException fault) when (attempt < 5 && fault.SqlState is PostgresErrorCodes.DuplicateDatabase or PostgresErrorCodes.UniqueViolation or PostgresErrorCodes.DuplicateTable)
            {
                // Two processes made the database, or its table of migrations, at the same moment.
                await Task.Delay(200 * attempt, cancellation).ConfigureAwait(false);
            }
        }
    }

    private static async Task<bool> IsUpToDateAsync(DbConnection connection, string last, CancellationToken cancellation)
    {
        try
        {
            await connection.OpenAsync(cancellation).ConfigureAwait(false);
            using DbCommand command = connection.CreateCommand();
            command.CommandText = Newest;
            return await command.ExecuteScalarAsync(cancellation).ConfigureAwait(false) is string newest && string.CompareOrdinal(newest, last) >= 0;
        }
        catch (DbException)
        {
            // No such file, database or table yet, or a real fault: EF Core finds out which.
            return false;
        }
    }

    private static async Task<FileStream> LockAsync(string path, CancellationToken cancellation)
    {
        DateTime end = DateTime.UtcNow + LongestWait;
        while (true)
        {
            try
            {
                return new FileStream(path, FileMode.OpenOrCreate, FileAccess.ReadWrite, FileShare.None);
            }
            catch (IOException) when (DateTime.UtcNow < end)
            {
                await Task.Delay(50, cancellation).ConfigureAwait(false);
            }
        }
    }
}

/// <summary>How connections to SQLite behave: writers wait for each other, and a commit survives a killed process without a flush of the disk each time.</summary>
internal sealed class SqliteManners : DbConnectionInterceptor
{
    public static SqliteManners Instance { get; } = new();

    public override void ConnectionOpened(DbConnection connection, ConnectionEndEventData eventData) => Set(connection);

    public override Task ConnectionOpenedAsync(DbConnection connection, ConnectionEndEventData eventData, CancellationToken cancellationToken = default)
    {
        Set(connection);
        return Task.CompletedTask;
    }

    private static void Set(DbConnection connection)
    {
        using DbCommand command = connection.CreateCommand();
        command.CommandText = "PRAGMA busy_timeout = 10000; PRAGMA synchronous = NORMAL;";
        command.ExecuteNonQuery();
    }
}
