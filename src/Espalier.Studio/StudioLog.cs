using Microsoft.Extensions.Logging;

namespace Espalier.Studio;

/// <summary>Hands warnings and errors of the server to one sink; addresses with their queries, which can hold tokens, are never among them.</summary>
internal sealed class StudioLog(Action<string>? sink) : ILoggerProvider
{
    public ILogger CreateLogger(string categoryName) => new Logger(categoryName, sink);

    public void Dispose()
    {
    }

    private sealed class Logger(string category, Action<string>? sink) : ILogger
    {
        private readonly bool _own = category.StartsWith("Espalier", StringComparison.Ordinal);

        public IDisposable? BeginScope<TState>(TState state)
            where TState : notnull => null;

        public bool IsEnabled(LogLevel logLevel) => sink is not null && logLevel >= (_own ? LogLevel.Information : LogLevel.Error);

        public void Log<TState>(LogLevel logLevel, EventId eventId, TState state, Exception? exception, Func<TState, Exception?, string> formatter)
        {
            if (IsEnabled(logLevel))
            {
                sink!(exception is null ? formatter(state, exception) : $"{formatter(state, exception)} ({exception.GetType().Name}: {exception.Message})");
            }
        }
    }
}
