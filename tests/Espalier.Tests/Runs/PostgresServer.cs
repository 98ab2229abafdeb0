using System.Diagnostics;
using System.Net;
using System.Net.Sockets;
using Npgsql;

namespace Espalier.Tests.Runs;

/// <summary>A PostgreSQL of our own in a folder of its own, for the tests of one class; gone afterwards.</summary>
/// <remarks>The server refuses to run as root, where it runs as the user nobody.</remarks>
public sealed class PostgresServer : IAsyncLifetime
{
    private readonly int _port = FreePort();
    private string? _folder, _missing;
    private Process? _server;

    /// <summary>A connection string for a new, empty database; skips the test where there is no PostgreSQL (in CI that is a failure).</summary>
    public string NewDatabase()
    {
        if (_missing is not null)
        {
            Assert.False(Environment.GetEnvironmentVariable("CI") == "true", $"In CI this is a failure: {_missing}.");
            Assert.Skip(_missing);
        }

        return Connection($"runs_{Guid.NewGuid():N}");
    }

    public async ValueTask InitializeAsync()
    {
        if (OperatingSystem.IsWindows() || Binaries() is not { } binaries)
        {
            _missing = "needs PostgreSQL's initdb and postgres; build/postgresql.sh installs them";
            return;
        }

        _folder = Directory.CreateTempSubdirectory("espalier-postgres-").FullName;
        string data = Path.Combine(_folder, "data");
        if (Environment.IsPrivilegedProcess)
        {
            await RunAsync("chown", "nobody", _folder);
        }

        await RunAsync([.. AsUser, Path.Combine(binaries, "initdb"), "-D", data, "-U", "espalier", "--auth=trust", "-E", "UTF8", "--no-sync", "--locale=C"]);
        _server = Start([.. AsUser, Path.Combine(binaries, "postgres"), "-D", data, "-p", $"{_port}", "-c", "listen_addresses=127.0.0.1", "-c", $"unix_socket_directories={_folder}", "-c", "fsync=off"]);
        for (int attempt = 0; ; attempt++)
        {
            try
            {
                await using var connection = new NpgsqlConnection(Connection("postgres"));
                await connection.OpenAsync();
                return;
            }
            catch (NpgsqlException) when (attempt < 300 && !_server.HasExited)
            {
                await Task.Delay(100);
            }
        }
    }

    public async ValueTask DisposeAsync()
    {
        NpgsqlConnection.ClearAllPools();
        if (_server is not null)
        {
            // SIGINT is PostgreSQL's fast shutdown.
            await RunAsync("kill", "-INT", $"{_server.Id}");
            await _server.WaitForExitAsync();
            _server.Dispose();
        }

        if (_folder is not null)
        {
            Directory.Delete(_folder, recursive: true);
        }
    }

    private static string[] AsUser => Environment.IsPrivilegedProcess ? ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"] : [];

    private string Connection(string database) => $"Host=127.0.0.1;Port={_port};Username=espalier;Database={database}";

    private static string? Binaries()
    {
        IEnumerable<string> packaged = Directory.Exists("/usr/lib/postgresql")
            ? Directory.EnumerateDirectories("/usr/lib/postgresql").OrderDescending().Select(d => Path.Combine(d, "bin"))
            : [];
        IEnumerable<string> path = (Environment.GetEnvironmentVariable("PATH") ?? "").Split(Path.PathSeparator, StringSplitOptions.RemoveEmptyEntries);
        return packaged.Concat(path).FirstOrDefault(d => File.Exists(Path.Combine(d, "initdb")) && File.Exists(Path.Combine(d, "postgres")));
    }

    private static int FreePort()
    {
        using var listener = new TcpListener(IPAddress.Loopback, 0);
        listener.Start();
        return ((IPEndPoint)listener.LocalEndpoint).Port;
    }

    private static async Task RunAsync(params string[] words)
    {
        using Process process = Start(words);
        await process.WaitForExitAsync();
        process.ExitCode.ShouldBe(0, string.Join(' ', words));
    }

    private static Process Start(string[] words)
    {
        var start = new ProcessStartInfo(words[0], words[1..]) { RedirectStandardOutput = true, RedirectStandardError = true, WorkingDirectory = "/" };
        Process process = Process.Start(start)!;
        process.OutputDataReceived += (_, _) => { };
        process.ErrorDataReceived += (_, _) => { };
        process.BeginOutputReadLine();
        process.BeginErrorReadLine();
        return process;
    }
}

public sealed class PostgresRunStoreTests(PostgresServer server) : RunStoreTests, IClassFixture<PostgresServer>
{
    private readonly string? _connection = server.NewDatabase();

    [Fact]
    public async Task Two_processes_that_record_at_once_lose_nothing()
    {
        using var folder = new TemporaryFolder();
        await Cli.RunsCommandTests.CheckTwoProcessesAsync(folder, _connection!);
    }

    private protected override Task<Espalier.Runs.RunStore> OpenAsync() => Espalier.Runs.RunStore.OpenAsync(Espalier.Runs.RunLocation.Parse(_connection!));
}
