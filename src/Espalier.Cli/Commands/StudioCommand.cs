using System.CommandLine;
using System.Diagnostics;
using Espalier.Runtime;
using Espalier.Studio;
using Spectre.Console;

namespace Espalier.Cli.Commands;

/// <summary><c>espalier studio</c>: serves the studio until it is stopped.</summary>
internal sealed class StudioCommand : EspalierCommand
{
    private readonly Option<int> _port = new("--port") { Description = "The port; 0 takes any free one.", HelpName = "N", DefaultValueFactory = _ => 7171 };
    private readonly Option<string> _host = new("--host") { Description = "The address to listen on. Any but the loopback address demands a token (ESPALIER_STUDIO_TOKEN) and --certificate.", HelpName = "address", DefaultValueFactory = _ => "127.0.0.1" };
    private readonly Option<string?> _certificate = new("--certificate") { Description = "Serves HTTPS with this PKCS #12 file; its password in ESPALIER_STUDIO_CERTIFICATE_PASSWORD.", HelpName = "file" };
    private readonly Option<string[]> _models = new("--models") { Description = "A folder whose models are shown too; may be given several times.", HelpName = "folder" };
    private readonly Option<string?> _home = new("--home") { Description = "The studio's own folder: what is started here, subscriptions. Default ESPALIER_HOME, else ~/.espalier.", HelpName = "folder" };
    private readonly Option<bool> _noBrowser = new("--no-browser") { Description = "Does not open the browser." };

    public StudioCommand()
        : base("studio", "Opens the web studio on this machine: runs as they go, comparisons, models from near, the catalogue.",
            "espalier studio",
            "espalier studio --port 8080 --no-browser --models ./checkpoints",
            "espalier studio --host 0.0.0.0 --certificate studio.p12")
    {
        foreach (Option option in new Option[] { _port, _host, _certificate, _models, _home, _noBrowser })
        {
            Add(option);
        }
    }

    protected override async Task<int> RunAsync(ParseResult parsed, CommandContext context, CancellationToken cancellation)
    {
        static string? Word(string name) => Environment.GetEnvironmentVariable(name) is { Length: > 0 } value ? value : null;
        var options = new StudioOptions
        {
            Port = parsed.GetValue(_port),
            Host = parsed.GetRequiredValue(_host),
            Certificate = parsed.GetValue(_certificate),
            CertificatePassword = Word("ESPALIER_STUDIO_CERTIFICATE_PASSWORD"),
            Token = Word("ESPALIER_STUDIO_TOKEN"),
            ModelFolders = parsed.GetValue(_models) ?? [],
            Home = parsed.GetValue(_home) ?? StudioOptions.DefaultHome,
            Mail = MailOptions.FromEnvironment(),
            Commands = new CommandForms(),
        };
        foreach (string folder in options.ModelFolders)
        {
            EspalierException.Require(Directory.Exists(folder), $"There is no folder '{folder}'; --models names a folder that holds models.");
        }

        await using StudioServer studio = await StudioServer.StartAsync(options, message => context.Progress.Warn(message), cancellation).ConfigureAwait(false);
        context.Show(new { address = studio.Address, home = options.Home }, () =>
        {
            context.Console.MarkupLineInterpolated($"The studio is open at [green]{studio.Address.ToString()}[/]");
            context.Console.MarkupLine("[grey]Ctrl-C closes it.[/]");
        });
        await context.Output.FlushAsync(cancellation).ConfigureAwait(false);
        if (!parsed.GetValue(_noBrowser) && !context.Settings.Json)
        {
            OpenBrowser(studio.Address);
        }

        await studio.WaitAsync(cancellation).ConfigureAwait(false);
        return ExitCode.Success;
    }

    private static void OpenBrowser(Uri address)
    {
        try
        {
            using Process? opened = OperatingSystem.IsWindows() ? Process.Start(new ProcessStartInfo(address.ToString()) { UseShellExecute = true })
                : OperatingSystem.IsMacOS() ? Process.Start("open", address.ToString())
                : Environment.GetEnvironmentVariable("DISPLAY") is { Length: > 0 } || Environment.GetEnvironmentVariable("WAYLAND_DISPLAY") is { Length: > 0 } ? Process.Start("xdg-open", address.ToString())
                : null;
        }
        catch (Exception fault) when (fault is System.ComponentModel.Win32Exception or InvalidOperationException)
        {
            // No browser to be had: the address stands in the terminal.
        }
    }
}
