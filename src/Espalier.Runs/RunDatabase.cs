using Microsoft.EntityFrameworkCore;
using Microsoft.EntityFrameworkCore.Storage.ValueConversion;

namespace Espalier.Runs;

/// <summary>The tables of the run store; the two databases differ in types and migrations alone.</summary>
public abstract class RunDatabase(DbContextOptions options) : DbContext(options)
{
    /// <summary>The runs.</summary>
    public DbSet<Run> Runs => Set<Run>();

    /// <summary>Their tags.</summary>
    public DbSet<RunTag> Tags => Set<RunTag>();

    /// <summary>Their figures.</summary>
    public DbSet<MetricPoint> Metrics => Set<MetricPoint>();

    /// <summary>Their files.</summary>
    public DbSet<Artefact> Artefacts => Set<Artefact>();

    /// <summary>What they said.</summary>
    public DbSet<LogLine> Log => Set<LogLine>();

    /// <inheritdoc/>
    protected override void OnModelCreating(ModelBuilder model)
    {
        model.Entity<Run>(run =>
        {
            run.ToTable("runs").HasKey(r => r.Id);
            run.Property(r => r.Id).HasMaxLength(32);
            run.Property(r => r.State).HasConversion<string>().HasMaxLength(16);
            run.HasMany(r => r.Tags).WithOne().HasForeignKey(t => t.RunId).OnDelete(DeleteBehavior.Cascade);
            run.HasIndex(r => r.Started);
            run.HasIndex(r => r.State);
        });
        model.Entity<RunTag>(tag =>
        {
            tag.ToTable("tags").HasKey(t => new { t.RunId, t.Tag });
            tag.HasIndex(t => t.Tag);
        });
        model.Entity<MetricPoint>(point =>
        {
            point.ToTable("metrics").HasKey(p => p.Id);
            point.HasOne<Run>().WithMany().HasForeignKey(p => p.RunId).OnDelete(DeleteBehavior.Cascade);
            point.HasIndex(p => new { p.RunId, p.Name, p.Id });
        });
        model.Entity<Artefact>(artefact =>
        {
            artefact.ToTable("artefacts").HasKey(a => new { a.RunId, a.Path });
            artefact.HasOne<Run>().WithMany().HasForeignKey(a => a.RunId).OnDelete(DeleteBehavior.Cascade);
        });
        model.Entity<LogLine>(line =>
        {
            line.ToTable("log").HasKey(l => l.Id);
            line.HasOne<Run>().WithMany().HasForeignKey(l => l.RunId).OnDelete(DeleteBehavior.Cascade);
            line.HasIndex(l => new { l.RunId, l.Id });
        });
    }

    /// <inheritdoc/>
    protected override void ConfigureConventions(ModelConfigurationBuilder conventions) =>
        conventions.Properties<DateTime>().HaveConversion<Utc>();

    // SQLite forgets that a time is UTC.
    internal sealed class Utc() : ValueConverter<DateTime, DateTime>(t => t.ToUniversalTime(), t => DateTime.SpecifyKind(t, DateTimeKind.Utc));
}

/// <summary>The run store in a file of SQLite.</summary>
public sealed class SqliteRunDatabase(DbContextOptions<SqliteRunDatabase> options) : RunDatabase(options);

/// <summary>The run store in a database of PostgreSQL.</summary>
public sealed class PostgresRunDatabase(DbContextOptions<PostgresRunDatabase> options) : RunDatabase(options);
