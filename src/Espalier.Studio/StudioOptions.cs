using System.Net;
using System.Security.Cryptography.X509Certificates;
using Espalier.Runtime;
using Espalier.Studio.Runs;

namespace Espalier.Studio;

/// <summary>How the studio is served and which folders it may look into.</summary>
public sealed record StudioOptions
{
    /// <summary>The port; 0 takes any free one. Default 7171.</summary>
    public int Port { get; init; } = 7171;

    /// <summary>The address to listen on; default the loopback address. Any other demands <see cref="Token"/> and <see cref="Certificate"/>.</summary>
    public string Host { get; init; } = "127.0.0.1";

    /// <summary>The word that a browser or a script must show; null asks for none, which only the loopback address allows. At least 16 characters.</summary>
    public string? Token { get; init; }

    /// <summary>A PKCS #12 file with certificate and key for HTTPS; null serves plain HTTP, which only the loopback address allows.</summary>
    public string? Certificate { get; init; }

    /// <summary>The password of <see cref="Certificate"/>; null for none.</summary>
    public string? CertificatePassword { get; init; }

    /// <summary>The studio's own folder: runs started here, subscriptions. Default: <c>.espalier</c> in the home folder.</summary>
    public string Home { get; init; } = DefaultHome;

    /// <summary>Folders whose models are shown, beside the shipped one, the hub's cache and the outputs of runs.</summary>
    public IReadOnlyList<string> ModelFolders { get; init; } = [];

    /// <summary>How many runs may be started, or texts generated, within a minute. Default 20.</summary>
    public int WorkPerMinute { get; init; } = 20;

    /// <summary>How many runs may work at the same time; others wait. Default 1.</summary>
    public int RunsAtOnce { get; init; } = 1;

    /// <summary>The run store, in the words of ESPALIER_RUNS; null takes what that variable says.</summary>
    public string? Runs { get; init; }

    /// <summary>How mail is sent; null sends none.</summary>
    public MailOptions? Mail { get; init; }

    /// <summary>The tool that runs are started with: program and first words. Null: this program.</summary>
    public IReadOnlyList<string>? Tool { get; init; }

    /// <summary>The commands that can be started from a form beside pruning; null for none.</summary>
    public IToolCommands? Commands { get; init; }

    /// <summary>The default of <see cref="Home"/>.</summary>
    public static string DefaultHome =>
        Environment.GetEnvironmentVariable("ESPALIER_HOME") is { Length: > 0 } set ? set : Path.Combine(Environment.GetFolderPath(Environment.SpecialFolder.UserProfile), ".espalier");

    /// <summary>Whether only this machine can reach the studio.</summary>
    public bool IsLoopback => Address is { } address && IPAddress.IsLoopback(address);

    internal IPAddress? Address => Host.Equals("localhost", StringComparison.OrdinalIgnoreCase) ? IPAddress.Loopback : IPAddress.TryParse(Host, out IPAddress? address) ? address : null;

    /// <summary>Refuses what would not be safe.</summary>
    /// <exception cref="EspalierException">With what to add.</exception>
    public void Validate()
    {
        EspalierException.Require(Address is not null, $"'{Host}' is no address to listen on; give 127.0.0.1, ::1, or an address of this machine such as 0.0.0.0.");
        EspalierException.Require(Port is >= 0 and <= 65535, $"There is no port {Port}; give one from 1 to 65535, or 0 for any free one.");
        EspalierException.Require(Token is null || Token.Length >= 16, "The studio's token is too short to keep anyone out; make it at least 16 characters, for example with `openssl rand -hex 16`.");
        EspalierException.Require(IsLoopback || Token is not null, $"Beyond this machine ({Host}) the studio demands a token; set ESPALIER_STUDIO_TOKEN to at least 16 characters.");
        EspalierException.Require(IsLoopback || Certificate is not null, $"Beyond this machine ({Host}) the studio demands HTTPS; name a PKCS #12 file with --certificate (its password in ESPALIER_STUDIO_CERTIFICATE_PASSWORD).");
        EspalierException.Require(Certificate is null || File.Exists(Certificate), $"There is no certificate '{Certificate}'; give the path of a PKCS #12 file.");
        EspalierException.Require(WorkPerMinute > 0 && RunsAtOnce > 0, "The limits of work must be 1 or more.");
        Mail?.Validate();
    }

    internal X509Certificate2? LoadCertificate()
    {
        if (Certificate is null)
        {
            return null;
        }

        try
        {
            return X509CertificateLoader.LoadPkcs12FromFile(Certificate, CertificatePassword);
        }
        catch (System.Security.Cryptography.CryptographicException fault)
        {
            throw new EspalierException($"The certificate '{Certificate}' cannot be opened ({fault.Message.TrimEnd('.')}); check the file and ESPALIER_STUDIO_CERTIFICATE_PASSWORD.", fault);
        }
    }
}

/// <summary>Where mail goes out.</summary>
public sealed record MailOptions
{
    /// <summary>The SMTP server.</summary>
    public required string Host { get; init; }

    /// <summary>Its port. Default 587.</summary>
    public int Port { get; init; } = 587;

    /// <summary>Whether the connection must be encrypted (STARTTLS, or TLS from the start on port 465). Default true.</summary>
    public bool Tls { get; init; } = true;

    /// <summary>The user to sign in as; null signs in as nobody.</summary>
    public string? User { get; init; }

    /// <summary>The user's password.</summary>
    public string? Password { get; init; }

    /// <summary>The sender's address.</summary>
    public required string From { get; init; }

    /// <summary>The address of the studio as a mail's reader reaches it; null: where it listens.</summary>
    public string? PublicAddress { get; init; }

    /// <summary>The settings in ESPALIER_SMTP_HOST, _PORT, _TLS, _USER, _PASSWORD, _FROM and ESPALIER_STUDIO_ADDRESS; null where no host is set.</summary>
    /// <exception cref="EspalierException">When they are not complete.</exception>
    public static MailOptions? FromEnvironment()
    {
        static string? Word(string name) => Environment.GetEnvironmentVariable(name) is { Length: > 0 } value ? value : null;
        if (Word("ESPALIER_SMTP_HOST") is not { } host)
        {
            return null;
        }

        int port = 587;
        EspalierException.Require(Word("ESPALIER_SMTP_PORT") is not { } text || int.TryParse(text, out port), "ESPALIER_SMTP_PORT is no number; set it to the SMTP server's port, such as 587.");
        return new MailOptions
        {
            Host = host,
            Port = port,
            Tls = Word("ESPALIER_SMTP_TLS") is not ("0" or "false" or "no"),
            User = Word("ESPALIER_SMTP_USER"),
            Password = Word("ESPALIER_SMTP_PASSWORD"),
            From = Word("ESPALIER_SMTP_FROM") ?? throw new EspalierException("ESPALIER_SMTP_HOST is set, but not the sender; set ESPALIER_SMTP_FROM to an e-mail address."),
            PublicAddress = Word("ESPALIER_STUDIO_ADDRESS"),
        };
    }

    internal void Validate()
    {
        EspalierException.Require(Port is > 0 and <= 65535, $"There is no port {Port} to send mail to; the usual one is 587.");
        EspalierException.Require(MimeKit.MailboxAddress.TryParse(From, out _), $"'{From}' is no e-mail address to send from.");
        EspalierException.Require(User is null || Password is not null, "The mail server's user is set but not the password; set ESPALIER_SMTP_PASSWORD.");
    }

    /// <summary>Says where mail goes, never the password.</summary>
    public override string ToString() => $"{Host}:{Port} as {From}";
}
