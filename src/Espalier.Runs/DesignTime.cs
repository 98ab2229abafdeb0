using Microsoft.EntityFrameworkCore.Design;

namespace Espalier.Runs;

/// <summary>For <c>dotnet ef migrations add</c> (docs/runs.md) alone: a database that is never opened.</summary>
internal sealed class SqliteDesign : IDesignTimeDbContextFactory<SqliteRunDatabase>
{
    public SqliteRunDatabase CreateDbContext(string[] args) => RunStore.OpenSqlite("design.db");
}

/// <inheritdoc cref="SqliteDesign"/>
internal sealed class PostgresDesign : IDesignTimeDbContextFactory<PostgresRunDatabase>
{
    public PostgresRunDatabase CreateDbContext(string[] args) => RunStore.OpenPostgres("Host=localhost;Database=design");
}
